"""A study as text and pictures: Markdown rows for the terminal, SVG for everything else.

Pure functions of the content of study.json, like `report.py`: the same study gives the same bytes.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ray_bilstm.report_charts import tick_text, ticks
from ray_bilstm.report_values import MISSING
from ray_bilstm.study import FINISHED, MEASURES, STOPPED

COLOURS = ("#2f6f9f", "#c4622d", "#3d8b57", "#8a5aa8", "#b08a1e", "#4f4f4f", "#a33a55", "#2a9d9d")
WIDTH, LEFT, RIGHT, TOP, ROW = 760.0, 60.0, 740.0, 40.0, 52.0
STYLE = (
    "text{font:12px sans-serif;fill:#333}polyline{fill:none;stroke-width:1.5}.grid{stroke:#ddd}"
    f".a{{fill:{COLOURS[0]};stroke:{COLOURS[0]}}}.b{{fill:{COLOURS[1]};stroke:{COLOURS[1]}}}"
    ".interval{stroke-width:2}.mean,.seed{stroke:none}.seed{fill-opacity:.5}"
)


def label(config: Mapping[str, Any]) -> str:
    """A configuration in a word: what varies in it."""
    return ", ".join(f"{name}={value}" for name, value in config.items()) or "as given"


def _figure(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}"


def format_study(study: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a terminal: the scores of every configuration, the comparisons, what did not finish, the best."""
    yield "| configuration | finished | F1 | mean | sd | min | max | 95 % of the mean |"
    yield "|---|---|---|---|---|---|---|---|"
    for index, configuration in enumerate(study["configurations"]):
        name = label(configuration["config"]) + (" (best)" if index == study["best"] else "")
        seeds = f"{len(configuration['seeds'])} of {sum(configuration['statuses'].values())}"
        for split, kind in MEASURES:
            found = configuration[split][f"{kind}_f1"]
            figures = " | ".join(_figure(found[part]) for part in ("mean", "sd", "min", "max"))
            interval = MISSING if found["low95"] is None else f"{_figure(found['low95'])} to {_figure(found['high95'])}"
            yield f"| {name} | {seeds} | {split} {kind} | {figures} | {interval} |"
            name = seeds = ""
    yield from _format_comparisons(study)
    yield from _format_unfinished(study["trials"])
    if study["best"] is None:
        yield "No trial has finished: there is no best configuration."
    else:
        best = label(study["configurations"][study["best"]]["config"])
        yield f"Best by mean dev entity F1: {best}. Its model with the best dev entity F1: {study['best_trial']}."


def _format_comparisons(study: Mapping[str, Any]) -> Iterator[str]:
    compared = [comparison for comparison in study["comparisons"] if comparison["seeds"]]
    if compared:
        best = label(study["configurations"][compared[0]["first"]]["config"])
        yield ""
        yield f"| {best}, less | common seeds | dev entity F1 | p | test entity F1 | p |"
        yield "|---|---|---|---|---|---|"
    for comparison in compared:
        dev, test = (comparison[split]["entity_f1"] for split in ("dev", "test"))
        yield (
            f"| {label(study['configurations'][comparison['second']]['config'])} | {len(comparison['seeds'])}"
            f" | {dev['difference']:+.4f} | {dev['p']:.3f} | {test['difference']:+.4f} | {test['p']:.3f} |"
        )
    if compared:
        fewest = min(len(comparison["seeds"]) for comparison in compared)
        yield (
            f"p: paired sign-flip test, two-sided, one comparison at a time; over {fewest} seeds it is at least"
            f" {2.0 ** (1 - fewest):.3g}."
        )
    yield ""


def _format_unfinished(trials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for trial in trials:
        if trial["status"] != FINISHED:
            why = f": {trial['reason']}" if trial["reason"] else f" after {len(trial['curve'])} epochs"
            yield f"{trial['status']}: {label(trial['config'])}, seed {trial['seed']}{why}"


def draw_scores(study: Mapping[str, Any]) -> str:
    """Entity F1 of every finished trial, by configuration: dots are seeds, a bar is the mean with its interval."""
    parts, bottom = score_marks(study, left=LEFT, right=RIGHT, top=TOP)
    if not parts:
        parts = ['<text x="60" y="60">No trial has finished.</text>']
    keys = f'<tspan fill="{COLOURS[0]}">dev</tspan> and <tspan fill="{COLOURS[1]}">test</tspan>'
    return _svg(bottom + 40, f"Entity F1, {keys}: seeds, their mean and its 95 % interval", parts)


def score_marks(study: Mapping[str, Any], *, left: float, right: float, top: float) -> tuple[list[str], float]:
    """The same as elements of an SVG, none where no trial has finished, and how far down they go.

    Their looks are the document's: classes grid, name, interval, mean and seed; a for dev, b for test.
    """
    rows = [configuration for configuration in study["configurations"] if configuration["seeds"]]
    finished = [trial for trial in study["trials"] if trial["status"] == FINISHED]
    values = [trial["result"][split]["entity"]["f1"] for trial in finished for split in ("dev", "test")]
    bottom = top + ROW * max(len(rows), 1)
    if not values:
        return [], bottom
    marks, step = ticks(min(values), max(values), 5, outward=True)

    def at(value: float) -> float:
        return left + (right - left) * (value - marks[0]) / (marks[-1] - marks[0])

    parts = [
        f'<line class="grid" x1="{at(mark):.1f}" x2="{at(mark):.1f}" y1="{top}" y2="{bottom:.1f}"/>'
        f'<text x="{at(mark):.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{tick_text(mark, step)}</text>'
        for mark in marks
    ]
    for place, row in enumerate(rows):
        y = top + ROW * place
        parts.append(f'<text class="name" x="{left}" y="{y + 12:.1f}">{html.escape(label(row["config"]))}</text>')
        own = [trial for trial in finished if trial["config"] == row["config"]]
        for offset, split, colour in ((24.0, "dev", "a"), (38.0, "test", "b")):
            parts += _marks(own, row[split]["entity_f1"], split, colour, y + offset, at)
    return parts, bottom


def _marks(
    own: Sequence[Mapping[str, Any]],
    found: Mapping[str, Any],
    split: str,
    colour: str,
    y: float,
    at: Callable[[float], float],
) -> Iterator[str]:
    low, high = (found["mean"] if found[end] is None else found[end] for end in ("low95", "high95"))
    yield f'<line class="interval {colour}" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{y}" y2="{y}"/>'
    yield f'<rect class="mean {colour}" x="{at(found["mean"]) - 1:.1f}" y="{y - 5}" width="2" height="10"/>'
    for trial in own:
        value = trial["result"][split]["entity"]["f1"]
        yield (
            f'<circle class="seed {colour}" cx="{at(value):.1f}" cy="{y}" r="2.6">'
            f"<title>{split}, seed {trial['seed']}: {value:.4f}</title></circle>"
        )


def draw_curves(study: Mapping[str, Any]) -> str:
    """Dev entity F1 by epoch of every trial, a colour a configuration; a cross ends a trial that ASHA stopped."""
    drawn = [trial for trial in study["trials"] if trial["curve"]]
    title, bottom = "Dev entity F1 by epoch; × stopped early", 340.0
    if not drawn:
        return _svg(bottom + 40, title, ['<text x="60" y="60">No epochs recorded.</text>'])
    every = [value for trial in drawn for value in trial["curve"]]
    marks, step = ticks(min(every), max(every), 5, outward=True)
    epochs = max(len(trial["curve"]) for trial in drawn)

    def at(epoch: int, value: float) -> tuple[float, float]:
        x = LEFT + (RIGHT - LEFT) * (epoch - 0.5) / epochs
        return x, bottom - (bottom - TOP) * (value - marks[0]) / (marks[-1] - marks[0])

    parts = [
        f'<line stroke="#ddd" x1="{LEFT}" x2="{RIGHT}" y1="{at(1, mark)[1]:.1f}" y2="{at(1, mark)[1]:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{at(1, mark)[1] + 4:.1f}" text-anchor="end">{tick_text(mark, step)}</text>'
        for mark in marks
    ]
    for epoch in (int(mark) for mark in ticks(0.5, epochs + 0.5, 8, least=1.0)[0]):
        parts.append(f'<text x="{at(epoch, 0)[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{epoch}</text>')
    names = [label(configuration["config"]) for configuration in study["configurations"]]
    for trial in drawn:
        colour = COLOURS[names.index(label(trial["config"])) % len(COLOURS)]
        points = [at(epoch, value) for epoch, value in enumerate(trial["curve"], 1)]
        path, (x, y) = " ".join(f"{x:.1f},{y:.1f}" for x, y in points), points[-1]
        end = "×" if trial["status"] == STOPPED else "●"
        parts.append(
            f'<polyline points="{path}" stroke="{colour}"/><text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle"'
            f' style="fill:{colour}">{end}<title>{html.escape(trial["path"])}</title></text>'
        )
    for place, name in enumerate(names):
        y = bottom + 44 + 18 * place
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="12" height="8" fill="{COLOURS[place % len(COLOURS)]}"/>')
        parts.append(f'<text x="{LEFT + 20}" y="{y}">{html.escape(name)}</text>')
    return _svg(bottom + 50 + 18 * len(names), title, parts)


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img">\n'
        f'<style>{STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="{LEFT}" y="22">{title}</text>\n{body}\n</svg>\n'
    )
