"""A search in figures: what each configuration scores over its seeds, which is best, and by how much.

A configuration is everything but the seed. Its scores are summed up as mean, standard deviation, range and a bootstrap
interval of the mean. The best one is chosen on dev alone, by its mean, so that no lucky seed and no look at test
decides; and it needs as many finished seeds as any other, so that a configuration of which ASHA left only the lucky
seeds does not win. Pure functions of what the trials left behind: the same trials give the same study.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = dict[str, Any]

FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped", "failed", "unfinished"
MEASURES = [(split, kind) for split in ("dev", "test") for kind in ("entity", "token")]
RESAMPLES = 10_000
EXACT_UP_TO = 16
"""Common seeds up to which the paired test enumerates all 2**n changes of sign; it draws RESAMPLES beyond."""


def make_study(trials: Sequence[Record]) -> Record:
    """The content of study.json.

    A trial holds its `config` (what varies, without the seed), `seed`, `status`, `result` (content of result.json, None
    where it has not finished), and `dev_entity_f1`, the best of its epochs so far.
    """
    groups: dict[str, list[Record]] = {}
    for trial in sorted(trials, key=lambda trial: (_sort_key(trial["config"]), trial["seed"])):
        groups.setdefault(json.dumps(trial["config"], sort_keys=True), []).append(trial)
    configurations = [_summarise(group) for group in groups.values()]
    best = choose(configurations)
    return {
        "configurations": configurations,
        "best": best,
        "best_trial": None if best is None else best_trial(list(groups.values())[best]),
        "comparisons": _compare_with(best, list(groups.values())),
        "trials": [trial for group in groups.values() for trial in group],
    }


def _sort_key(config: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    return [
        (name, value if isinstance(value, (int, float)) else 0.0, str(value)) for name, value in sorted(config.items())
    ]


def _summarise(group: Sequence[Record]) -> Record:
    finished = [trial for trial in group if trial["status"] == FINISHED]
    statuses = [trial["status"] for trial in group]
    return {
        "config": group[0]["config"],
        "seeds": [trial["seed"] for trial in finished],
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "reached": float(np.mean([trial["dev_entity_f1"] for trial in group])),
        **{
            split: {f"{kind}_f1": summary([score(trial, split, kind) for trial in finished]) for kind in KINDS}
            for split in ("dev", "test")
        },
    }


KINDS = ("entity", "token")


def score(trial: Record, split: str, kind: str) -> float:
    """F1 of a finished trial."""
    return float(trial["result"][split][kind]["f1"])


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, sample standard deviation, range and 95 % interval of the mean; None for what so few values do not have."""
    if not values:
        return dict.fromkeys(("mean", "sd", "min", "max", "low95", "high95"))
    low, high = bootstrap_interval(values) if len(values) > 1 else (None, None)
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "min": float(min(values)),
        "max": float(max(values)),
        "low95": low,
        "high95": high,
    }


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the means of resamples with replacement. With few values it is too narrow."""
    drawn = np.random.default_rng(0).choice(np.asarray(values, float), size=(RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def choose(configurations: Sequence[Record]) -> int | None:
    """The index of the best configuration; None where no trial has finished.

    Most finished seeds first, then the mean dev entity F1 over all seeds of the configuration, in which a trial that
    was stopped counts with what it had reached: where all have finished, simply the mean.
    """
    ranks = [(len(configuration["seeds"]), configuration["reached"]) for configuration in configurations]
    best = max(ranks, default=(0, 0.0))
    return ranks.index(best) if best[0] else None


def best_trial(group: Sequence[Record]) -> str:
    """The directory of the finished trial with the best dev entity F1; the smallest seed of several."""
    finished = [trial for trial in group if trial["status"] == FINISHED]
    return str(max(finished, key=lambda trial: score(trial, "dev", "entity"))["path"])


def paired_test(differences: Sequence[float]) -> float:
    """p of the two-sided sign-flip test that paired differences are symmetric around 0.

    The share of all changes of sign whose mean is at least as far from 0 as the one seen. Exact up to EXACT_UP_TO
    pairs; it cannot be below 2 ** (1 - pairs).
    """
    values = np.asarray(differences, float)
    if len(values) <= EXACT_UP_TO:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice([1.0, -1.0], size=(RESAMPLES, len(values)))
        signs[0] = 1.0  # the one seen is among them
    seen, sums = abs(values.sum()), np.abs(signs @ values)
    return float(np.mean(sums >= seen - 1e-12))


def compare(first: Sequence[Record], second: Sequence[Record]) -> Record:
    """`first` against `second` over the seeds that both have finished: mean difference and p of each measure."""
    of_first, of_second = ({t["seed"]: t for t in group if t["status"] == FINISHED} for group in (first, second))
    seeds = sorted(set(of_first) & set(of_second))
    found: Record = {"seeds": seeds}
    for split, kind in MEASURES if seeds else ():
        differences = [score(of_first[seed], split, kind) - score(of_second[seed], split, kind) for seed in seeds]
        found.setdefault(split, {})[f"{kind}_f1"] = {
            "difference": float(np.mean(differences)),
            "p": paired_test(differences),
        }
    return found


def _compare_with(best: int | None, groups: Sequence[Sequence[Record]]) -> list[Record]:
    """The best configuration against every other."""
    if best is None:
        return []
    others = [index for index in range(len(groups)) if index != best]
    return [{"first": best, "second": index, **compare(groups[best], groups[index])} for index in others]
