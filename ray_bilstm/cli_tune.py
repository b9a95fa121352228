"""The commands of a search and of its study: their flags, and what they print.

What needs NumPy is imported late: it would slow down every key press of completion.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ray_bilstm.cli_train import add_train_arguments, at_least, config_of, print_coverage, print_start
from ray_bilstm.space import Plan, parse_axes

BATCH_SIZES = "16,32,64,128"


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers, such as 1,2,3") from None


def add_tune_arguments(parser: argparse.ArgumentParser) -> None:
    plan = Plan()
    group = parser.add_argument_group("search")
    add = group.add_argument
    seeds = ",".join(map(str, plan.seeds))
    add(
        "--seeds",
        type=_seeds,
        default=plan.seeds,
        metavar="LIST",
        help=f"every configuration is run with each (default: {seeds})",
    )
    add("--batch-sizes", metavar="LIST", help=f"batch sizes to try (default: {BATCH_SIZES})")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="values of another setting to try: hidden_size=128,256; dropout=0.3..0.6; learning_rate=log:1e-3..1e-2",
    )
    add("--search", choices=("grid", "random", "optuna"), default=plan.search, help="default: grid, every combination")
    add("--samples", type=at_least(1), default=plan.samples, help="configurations to try, unless a grid (default: 10)")
    add("--scheduler", choices=("none", "asha"), default=plan.scheduler, help="asha: stop bad trials early")
    add("--grace-epochs", type=at_least(1), default=plan.grace_epochs, help="asha stops no trial before (default: 1)")
    add("--max-concurrent", type=at_least(1), help="trials at a time (default: as many as the cluster holds)")
    add_train_arguments(parser, without=("seed", "batch_size", "overwrite", "storage_path"))


def tune_command(options: argparse.Namespace) -> int:
    """Search over seeds and batch sizes, or any other settings, and sum it up as a study.

    Each trial is a run of `train` with --num-workers workers, and leaves an ordinary run directory. The best
    configuration is the one with the highest mean dev entity F1 over its seeds; test is scored and never chooses.
    An interrupted search goes on with the same command and --resume.

    examples:
      python -m ray_bilstm tune --data-dir ResumeNER --seeds 1,2,3,4,5 --batch-sizes 16,32,64,128
      python -m ray_bilstm tune --set model.hidden_size=128,256 --set head=crf,softmax --scheduler asha
      python -m ray_bilstm tune --search random --samples 20 --seeds 1,2,3 --set dropout=0.3..0.6
      python -m ray_bilstm tune --search optuna --samples 20 --set learning_rate=log:1e-3..1e-2
    """
    config = config_of(options)
    axes = parse_axes(options.set)
    if options.batch_sizes is not None or "batch_size" not in axes:
        axes = parse_axes([f"batch_size={options.batch_sizes or BATCH_SIZES}", *options.set])
    plan = Plan(
        seeds=options.seeds,
        axes=axes,
        search=options.search,
        samples=options.samples,
        scheduler=options.scheduler,
        grace_epochs=options.grace_epochs,
        max_concurrent=options.max_concurrent,
    )
    from ray_bilstm.figures import format_study
    from ray_bilstm.search_directory import BEST, CURVES, PAGE, SCORES, STUDY
    from ray_bilstm.tune import search

    study, path = search(
        config,
        plan,
        on_start=print_start,
        on_coverage=print_coverage,
        on_plan=_print_plan,
        on_trial=_print_trial,
    )
    print()
    for line in format_study(study):
        print(line)
    print(f"page {path / PAGE}")
    print(f"best model {path / BEST}, plots {path / SCORES} and {path / CURVES}")
    print(path / STUDY)
    return 0


def _print_plan(trials: int, at_a_time: int) -> None:
    print(f"{trials} trials to run, {min(trials, at_a_time)} at a time", flush=True)


def _print_trial(trial: dict[str, Any]) -> None:
    from ray_bilstm.figures import label
    from ray_bilstm.study import FINISHED

    text = f"{trial['status']:10}{label(trial['config'])}, seed {trial['seed']}"
    if trial["status"] == FINISHED:
        dev, test = (trial["result"][split]["entity"]["f1"] for split in ("dev", "test"))
        text += f": entity F1 {dev:.4f} on dev, {test:.4f} on test"
    elif trial["reason"]:
        text += f": {trial['reason']}"
    else:
        text += f" after {len(trial['curve'])} epochs, dev entity F1 {trial['dev_entity_f1']:.4f}"
    print(text, flush=True)


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("search", type=Path, help="directory of a search")


def study_command(options: argparse.Namespace) -> int:
    """Print the study of a search again, from its run directories or its study.json, and write its study.html.

    examples:
      python -m ray_bilstm study runs/search-NAME
    """
    from ray_bilstm.figures import format_study
    from ray_bilstm.search_directory import read_study, write_page

    study = read_study(options.search)
    for line in format_study(study):
        print(line)
    try:
        print(f"page {write_page(options.search, study)}")
    except OSError as error:
        print(f"warning: {error}: the page is left as it is", file=sys.stderr)
    return 0
