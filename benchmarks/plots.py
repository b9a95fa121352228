#!/usr/bin/env python3
"""Draw what the benchmarks wrote with --json, docs/benchmarks/*.json, and the table of docs/accuracy.md, as *.svg.

python benchmarks/plots.py
"""

import json
import statistics
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
OURS, OTHERS = "#1f6feb", "#9aa4b2"


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["figures"]


def bars(axes, rates, title):
    """Horizontal bars with their figures, the fastest on top."""
    names = sorted(rates, key=rates.get)
    drawn = axes.barh(names, [rates[name] for name in names], color=[colour(name) for name in names])
    axes.bar_label(drawn, labels=[f" {rates[name]:,.0f}" for name in names])
    axes.set_xlim(0, max(rates.values()) * 1.18)
    axes.set_title(title, loc="left")


def colour(name):
    return OURS if name.startswith(("ours", "default")) else OTHERS


def train_step():
    figures = read("train_step")
    figure, axes = plt.subplots(figsize=(8, 3.6))
    medians = {name: sorted(cpu for _, cpu, _ in costs)[len(costs) // 2] for name, costs in figures["seconds"].items()}
    bars(axes, {name: figures["sentences"] / cpu for name, cpu in medians.items()}, "Training sentences a CPU second")
    return figure


def crf():
    milliseconds = read("crf")["milliseconds"]
    figure, both = plt.subplots(1, 2, figsize=(8, 3.2))
    for axes, (task, title) in zip(both, (("nll", "Loss and gradient"), ("viterbi", "Viterbi")), strict=True):
        lengths = [key.removeprefix(f"{task}_") for key in milliseconds if key.startswith(task)]
        for place, name in enumerate(milliseconds[f"{task}_{lengths[0]}"]):
            at = [i + 0.27 * place for i in range(len(lengths))]
            values = [milliseconds[f"{task}_{length}"][name] for length in lengths]
            shade = OURS if name == "ours" else (OTHERS, "#c9d1d9")[place % 2]
            axes.bar_label(axes.bar(at, values, 0.25, label=name, color=shade), fmt="%.3g", fontsize=7)
        axes.margins(y=0.12)
        axes.set_xticks([i + 0.27 for i in range(len(lengths))], lengths)
        axes.set_xlabel("characters")
        axes.set_title(f"{title}, ms for 64 sentences", loc="left")
    both[0].legend(frameon=False)
    return figure


def inference():
    figure, axes = plt.subplots(figsize=(8, 2.6))
    rates = {name: figures["sentences_per_cpu_second"] for name, figures in read("inference").items()}
    bars(axes, rates, "Sentences tagged a CPU second")
    return figure


def scaling():
    rates = read("scaling")["sentences_per_second"]
    figure, axes = plt.subplots(figsize=(6, 3.6))
    worlds = [int(world) for world in rates]
    one = rates["1"]["measured"]
    axes.plot(worlds, [world * one for world in worlds], "--", color="#c9d1d9", label="perfect")
    axes.plot(worlds, [rates[str(world)]["predicted"] for world in worlds], "o-", color=OTHERS, label="cost model")
    measured = [world for world in worlds if rates[str(world)]["measured"]]
    axes.plot(measured, [rates[str(w)]["measured"] for w in measured], "o-", color=OURS, label="measured")
    axes.set_xticks(worlds)
    axes.set_xlabel("workers of one thread, global batch of 64")
    axes.set_title("Training sentences a second", loc="left")
    axes.legend(frameon=False)
    return figure


def device():
    rates = {name: statistics.median(values) for name, values in read("device")["sentences_per_second"].items()}
    plain = read("device_plain")["sentences_per_second"]
    levels = sorted({name.split()[0] for name in rates} - {"tutorial"})
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for level, shade in zip(levels, (OTHERS, "#79b8ff", OURS), strict=True):
        sizes = [int(name.split()[1]) for name in rates if name.startswith(level)]
        axes.plot(sizes, [rates[f"{level} {size}"] for size in sizes], "o-", color=shade, label=level)
    sizes = [int(name.split()[1]) for name in plain if name.endswith("plain")]
    medians = [statistics.median(plain[f"O2 {size} plain"]) for size in sizes]
    axes.plot(sizes, medians, "o:", color="#d29922", label="O2, steps not recorded")
    axes.plot([64], [rates["tutorial"]], "x", color="black", label="tutorial, float32")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([64, 256, 1024, 2048], ["64", "256", "1,024", "2,048"])
    axes.set_xlabel("sentences a step")
    axes.set_title(f"Training sentences a second, {read('device')['device']}", loc="left")
    axes.legend(frameon=False, fontsize=8)
    return figure


def accuracy():
    """Mean and standard deviation on dev and test of each row of the table of five seeds on a GPU."""
    text = (FOLDER.parent / "accuracy.md").read_text(encoding="utf-8").partition("## The same on a GPU")[2]
    table = [line.strip("|").split("|") for line in text.partition("\n## ")[0].splitlines() if "±" in line]
    names = [name.replace("`", "").replace("*", "").strip() for name, *_ in table]
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(table) + 1))
    for column, label, shade, shift in ((1, "dev", OURS, -0.12), (3, "test", "#d29922", 0.12)):
        means, deviations = zip(*(map(float, row[column].split("±")) for row in table), strict=True)
        places = [place + shift for place in range(len(table))]
        axes.errorbar(
            means, places, xerr=deviations, fmt="o", ms=4, color=shade, ecolor=shade, elinewidth=1, label=label
        )
        axes.axvline(means[names.index("the default")], color=shade, lw=0.8, ls=":")
    axes.set_yticks(range(len(table)), [name if len(name) < 62 else f"{name[:60]}…" for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_title("Entity F1, mean and standard deviation of five seeds", loc="left")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> int:
    matplotlib.rcParams.update({"svg.hashsalt": "ray_bilstm", "axes.spines.top": False, "axes.spines.right": False})
    for draw in (train_step, crf, inference, scaling, device, accuracy):
        figure = draw()
        figure.tight_layout()
        figure.savefig(FOLDER / f"{draw.__name__}.svg", metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
