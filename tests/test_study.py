"""The statistics of a search against known values and brute force, and which configuration is best."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import figures
from ray_bilstm.study import bootstrap_interval, compare, make_study, paired_test, summary


def trial(config, seed, dev, *, test=None, status="finished", reason=None):
    """A trial whose token F1 is its entity F1 and 0.05."""
    scores = {"dev": dev, "test": dev - 0.01 if test is None else test}
    result = {split: {"entity": {"f1": f1}, "token": {"f1": f1 + 0.05}} for split, f1 in scores.items()}
    return {
        "config": config,
        "seed": seed,
        "status": status,
        "reason": reason,
        "path": f"trials/{config}-{seed}",
        "result": result if status == "finished" else None,
        "curve": [dev / 2, dev] if dev else [],
        "dev_entity_f1": dev,
    }


def trials(scores, **config):
    return [trial(config, seed, dev) for seed, dev in enumerate(scores, 1)]


def best_config(found):
    return found["configurations"][found["best"]]["config"]


def test_a_summary_of_known_values() -> None:
    found = summary([0.90, 0.92, 0.97])
    assert found["mean"] == pytest.approx(0.93)
    assert found["sd"] == pytest.approx(np.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2))
    assert (found["min"], found["max"]) == (0.90, 0.97)
    assert summary([0.5]) == {"mean": 0.5, "sd": None, "min": 0.5, "max": 0.5, "low95": None, "high95": None}
    assert set(summary([]).values()) == {None}


def test_the_interval_is_that_of_all_resamples() -> None:
    values = [0.90, 0.91, 0.93, 0.97]
    means = [np.mean(resample) for resample in itertools.product(values, repeat=len(values))]
    assert bootstrap_interval(values) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=2e-3)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_an_interval_holds_between_the_extremes_and_around_the_mean(values) -> None:
    low, high = bootstrap_interval(values)
    assert min(values) - 1e-12 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= max(values) + 1e-12


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9))
def test_the_paired_test_counts_all_changes_of_sign(differences) -> None:
    flips = [
        sum(sign * difference for sign, difference in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = sum(abs(flip) >= abs(sum(differences)) for flip in flips) / len(flips)
    assert paired_test(differences) == pytest.approx(expected)


def test_known_p_values() -> None:
    assert paired_test([0.01, 0.02, 0.01, 0.03, 0.02]) == 2 / 32, "all five agree"
    assert paired_test([0.0, 0.0]) == 1
    assert paired_test([0.01]) == 1
    many = np.random.default_rng(1).normal(size=40)
    assert 0.2 < paired_test(many - many.mean() + 0.1) < 0.9
    assert paired_test(many - many.mean() + 3) < 0.001


def test_configurations_are_compared_over_the_seeds_that_both_have() -> None:
    found = compare(trials([0.90, 0.92, 0.94], batch_size=16), trials([0.80, 0.84], batch_size=32))
    assert found["seeds"] == [1, 2]
    assert found["dev"]["entity_f1"] == {"difference": pytest.approx(0.09), "p": 0.5}
    assert compare(trials([0.9], a=1), []) == {"seeds": []}


def test_the_best_is_the_best_on_average_and_on_dev() -> None:
    lucky = [*trials([0.99, 0.70, 0.71], batch_size=16), *trials([0.90, 0.91, 0.92], batch_size=32)]
    assert best_config(make_study(lucky)) == {"batch_size": 32}
    on_test = [
        *(trial({"batch_size": 16}, seed, 0.80, test=0.99) for seed in (1, 2)),
        *(trial({"batch_size": 32}, seed, 0.81, test=0.50) for seed in (1, 2)),
    ]
    found = make_study(on_test)
    assert best_config(found) == {"batch_size": 32}
    assert found["best_trial"] == "trials/{'batch_size': 32}-1", "of equals the smallest seed"


def test_the_model_is_that_of_the_best_seed_on_dev() -> None:
    found = make_study([trial({"a": 1}, 1, 0.90, test=0.99), trial({"a": 1}, 2, 0.92, test=0.80)])
    assert found["best_trial"] == "trials/{'a': 1}-2"


def test_survivors_do_not_win() -> None:
    """Of one configuration only the lucky seed was left to finish."""
    lucky = [trial({"a": 1}, 1, 0.99), *(trial({"a": 1}, seed, 0.4, status="stopped") for seed in (2, 3))]
    assert best_config(make_study([*lucky, *trials([0.90, 0.91, 0.92], a=2)])) == {"a": 2}
    one_each = [trial({"a": 2}, 1, 0.95), *(trial({"a": 2}, seed, 0.8, status="stopped") for seed in (2, 3))]
    found = make_study([*lucky, *one_each])
    assert best_config(found) == {"a": 2}, "what stopped trials had reached counts"
    assert found["configurations"][0]["statuses"] == {"finished": 1, "stopped": 2}
    assert found["configurations"][0]["dev"]["entity_f1"]["mean"] == 0.99


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 4), st.floats(0, 1), st.sampled_from(["finished", "stopped", "failed"])
        ),
        min_size=1,
        max_size=14,
        unique_by=lambda one: one[:2],
    )
)
def test_the_best_has_the_most_seeds_and_then_the_best_mean(drawn) -> None:
    found = make_study([trial({"a": a}, seed, dev, status=status) for a, seed, dev, status in drawn])
    every = found["configurations"]
    finished = [len(one["seeds"]) for one in every]
    if not any(finished):
        assert (found["best"], found["best_trial"], found["comparisons"]) == (None, None, [])
    else:
        assert finished[found["best"]] == max(finished)
        if all(one["statuses"] == {"finished": max(finished)} for one in every):
            means = [one["dev"]["entity_f1"]["mean"] for one in every]
            assert means[found["best"]] == pytest.approx(max(means))
    assert sum(sum(one["statuses"].values()) for one in every) == len(drawn)
    assert make_study(list(reversed(found["trials"]))) == found, "the order of trials does not matter"
    json.dumps(found, allow_nan=False)
    for drawing in (figures.draw_scores(found), figures.draw_curves(found)):
        ElementTree.fromstring(drawing)
    assert list(figures.format_study(found))


def test_a_study_is_printed_with_all_its_figures() -> None:
    failed = trial({"batch_size": 32, "head": "crf"}, 9, 0.0, status="failed", reason="a worker failed: no memory")
    stopped = trial({"batch_size": 32, "head": "crf"}, 8, 0.3, status="stopped")
    done = [*trials([0.90, 0.92], batch_size=16, head="crf"), *trials([0.81, 0.82], batch_size=32, head="crf")]
    shown = "\n".join(figures.format_study(make_study([*done, failed, stopped])))
    assert (
        "| batch_size=16, head=crf (best) | 2 of 2 | dev entity | 0.9100 | 0.0141 | 0.9000 | 0.9200 | 0.9000 to"
        in shown
    )
    assert "| batch_size=32, head=crf | 2 of 4 | dev entity | 0.8150 |" in shown
    assert "| batch_size=32, head=crf | 2 | +0.0950 | 0.500 | +0.0950 | 0.500 |" in shown
    assert "failed: batch_size=32, head=crf, seed 9: a worker failed: no memory" in shown
    assert "stopped: batch_size=32, head=crf, seed 8 after 2 epochs" in shown
    assert "Best by mean dev entity F1: batch_size=16, head=crf." in shown


def test_plots_show_every_seed_and_escape_what_they_show() -> None:
    found = make_study([*trials([0.90, 0.92], note="<b>"), trial({"note": "x"}, 1, 0.3, status="stopped")])
    scores, curves = figures.draw_scores(found), figures.draw_curves(found)
    assert scores.count("<circle") == 4, "two seeds on dev and on test"
    assert (curves.count("<polyline"), curves.count("×<title>")) == (3, 1)
    assert "<b>" not in scores + curves
