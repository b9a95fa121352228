"""The curves of a report: SVG of a history, and round ticks for any axis."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ray_bilstm.report_values import KINDS, dig, finite

CURVES = (  # title, subtitle, unit, axis from zero, (label, colour, keys in a line of the history) of each line
    (
        "Training loss",
        "训练损失",
        "negative log-likelihood a sentence, in nats",
        True,
        [("train loss", "a", ["train_loss"])],
    ),
    (
        "Dev F1",
        "验证集 F1",
        "0 to 1",
        False,
        [(f"{kind} F1", on, ["dev", kind, "f1"]) for kind, on in zip(KINDS, "ab", strict=True)],
    ),
    ("Learning rate", "学习率", "at the end of the epoch", True, [("learning rate", "a", ["learning_rate"])]),
    ("Gradient norm", "梯度范数", "mean over steps", True, [("gradient norm", "a", ["gradient_norm"])]),
)
LEFT, RIGHT, TOP, BOTTOM = 48.0, 352.0, 18.0, 172.0  # the plot inside a chart of 360 by 206


def draw_curves(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    improved = [line.get("epoch") for line in history if line.get("best")]
    best = finite(result.get("best_epoch") or (improved[-1] if improved else None))
    figures = []
    for title, chinese, unit, from_zero, lines in CURVES:
        series = []
        for label, colour, keys in lines:
            pairs = [(finite(line.get("epoch", at)), finite(dig(line, *keys))) for at, line in enumerate(history, 1)]
            series.append((label, colour, [(x, y) for x, y in pairs if x is not None and y is not None]))
        if not any(points for _, _, points in series):
            continue
        keys = [f'<span class="key {colour}"></span>{label} &ensp;' for label, colour, _ in series if len(series) > 1]
        figures.append(
            f'<figure><figcaption>{title}<span class="zh" lang="zh">{chinese}</span>'
            f"<small>{''.join(keys)}{unit}</small></figcaption>\n"
            f'<svg viewBox="0 0 360 206" role="img" aria-label="{title} by epoch">\n'
            f"{_chart(series, best, from_zero)}\n</svg></figure>"
        )
    drawn = "\n".join(figures)
    return f'<div class="curves">\n{drawn}\n</div>' if drawn else '<p class="soft">No epochs recorded.</p>'


def _chart(series: Sequence[tuple[str, str, list[tuple[float, float]]]], best: float | None, from_zero: bool) -> str:
    """Axes and lines over epochs: `series` are (label, colour, points). A hover on a point tells its value."""
    every = [point for _, _, points in series for point in points]
    low_x, high_x = min(x for x, _ in every) - 0.5, max(x for x, _ in every) + 0.5
    values = [y for _, y in every] + [0.0] * from_zero
    ticks_x, step_x = ticks(low_x, high_x, 6, least=1.0)
    ticks_y, step_y = ticks(min(values), max(values), 4, outward=True)

    def at(x: float, y: float) -> tuple[float, float]:
        share_y = (y - ticks_y[0]) / (ticks_y[-1] - ticks_y[0])
        return LEFT + (RIGHT - LEFT) * (x - low_x) / (high_x - low_x), BOTTOM - (BOTTOM - TOP) * share_y

    parts = [f'<text x="{RIGHT}" y="201" text-anchor="end">epoch 轮次</text>']
    for tick in ticks_y:
        _, y = at(0, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick_text(tick, step_y)}</text>')
    for tick in ticks_x:
        parts.append(f'<text x="{at(tick, 0)[0]:.1f}" y="187" text-anchor="middle">{tick_text(tick, step_x)}</text>')
    if best is not None and low_x < best < high_x:
        x, _ = at(best, 0)
        anchor = "end" if x > (LEFT + RIGHT) / 2 else "start"
        parts.append(f'<line class="best" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP - 7}" text-anchor="{anchor}">best: epoch {best:g}</text>')
    for label, colour, points in series:
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in points)
        parts.append(f'<polyline class="{colour}" points="{path}"/>')
        for epoch, value in points:
            (x, y), note = at(epoch, value), " (best epoch)" if epoch == best else ""
            shape, radius = ("ring", 3.2) if epoch == best else ("dot", 2.0 if len(points) <= 60 else 0.9)
            parts.append(
                f'<circle class="{shape} {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
                f"<title>epoch {epoch:g}: {label} {value:.4g}{note}</title></circle>"
            )
    return "\n".join(parts)


def ticks(
    low: float, high: float, about: int, *, least: float = 0.0, outward: bool = False
) -> tuple[list[float], float]:
    """Round values between low and high, about so many; `outward` takes in the ones just beyond, for an axis's ends."""
    if high - low <= max(1e-4 * max(abs(low), abs(high)), 1e-12):
        high = low + (abs(low) * 0.1 or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(least, next(power * times for times in (1, 2, 5, 10) if power * times >= raw * 0.999))
    below, above = (math.floor, math.ceil) if outward else (math.ceil, math.floor)
    return [step * at for at in range(below(low / step + 1e-9), above(high / step - 1e-9) + 1)], step


def tick_text(value: float, step: float) -> str:
    if value and (step < 1e-5 or abs(value) >= 1e6):
        return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.3g}")
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" if value else "0"
