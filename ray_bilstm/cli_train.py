"""The commands that train or measure one run: their flags, generated from the settings, and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray_bilstm.config import Config, iter_flags
from ray_bilstm.corpus import Corpus

WARNINGS_SHOWN = 10


def add_train_arguments(parser: argparse.ArgumentParser, *, without: Sequence[str] = (), **defaults: Any) -> None:
    """A flag for every setting that `without` does not name; `defaults` are shown instead of the settings' own."""
    groups = {name: parser.add_argument_group(name) for name in Config().to_dict()}
    for flag in iter_flags():
        if flag.name in without:
            continue
        default = defaults.get(flag.name, flag.default)
        name = f"--{flag.name.replace('_', '-')}"
        shown = flag.help if default is None or default is False else f"{flag.help} (default: {default})"
        help_text = shown.replace("%", "%%")
        if flag.type is bool:
            groups[flag.section].add_argument(
                name, dest=flag.name, action="store_true", default=argparse.SUPPRESS, help=help_text
            )
        elif flag.name == "mlflow":
            groups[flag.section].add_argument(
                name, nargs="?", const="auto", default=argparse.SUPPRESS, metavar="URI", help=help_text
            )
        else:
            groups[flag.section].add_argument(
                name,
                dest=flag.name,
                type=_workers if flag.name == "num_workers" else flag.type,
                choices=flag.choices,
                default=argparse.SUPPRESS,
                metavar=None if flag.choices else flag.type.__name__.upper(),
                help=help_text,
            )


def train_command(options: argparse.Namespace, **defaults: Any) -> int:
    """Train, select on dev, score on test.

    Writes a run directory with the model, the history, a report and result.json. Ctrl-C and SIGTERM save what was done
    and stop; the same command with --resume and the --output-dir goes on, to the same figures. Exit codes: 0 with a
    result.json, 75 stopped by --stop-after, 130 by Ctrl-C, 143 by SIGTERM.

    examples:
      python -m ray_bilstm train
      python -m ray_bilstm train --data-dir ResumeNER --num-workers 4 --batch-size 128 --output-dir runs/NAME
      python -m ray_bilstm train --data-dir ResumeNER --output-dir runs/NAME --resume
    """
    config = config_of(options, **defaults)
    from ray_bilstm.run_directory import RESULT, RunStopped
    from ray_bilstm.train import train

    try:
        result, path = train(
            config, on_start=print_start, on_coverage=print_coverage, on_epoch=_print_epoch, on_event=_print_event
        )
    except RunStopped as stopped:
        print(stopped)
        return stopped.code
    print()
    for line in result_table([result]):
        print(line)
    if result["corpus"]["embedded_sample"]:
        print("These figures are of the embedded sample corpus and say nothing about ResumeNER or your data.")
    print(f"best model {path / 'best'}, report {path / 'report.html'}")
    print(path / RESULT)
    return 0


def config_of(options: argparse.Namespace, **defaults: Any) -> Config:
    names = {flag.name for flag in iter_flags()}
    given = {name: value for name, value in vars(options).items() if name in names}
    if isinstance(given.get("num_workers"), tuple):
        given["min_workers"], given["num_workers"] = given["num_workers"]
    return Config().with_fields(**{**defaults, **given})


def _workers(text: str) -> int | tuple[int, int]:
    """`8`, or `2..8` for --min-workers 2 --num-workers 8."""
    few, dots, many = text.partition("..")
    try:
        return (int(few), int(many)) if dots else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number, or a range such as 2..8") from None


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text}, expected {least} or more")
        return int(text)

    return number


def perf_command(options: argparse.Namespace, **defaults: Any) -> int:
    """Measure the throughput of training; nothing is scored."""
    config = config_of(options, **defaults)
    from ray_bilstm.perf import Plan
    from ray_bilstm.run_directory import RESULT, TRACE
    from ray_bilstm.train import measure

    plan = Plan(warmup_steps=options.warmup_steps, measured_steps=options.measured_steps, trace=options.profile)
    result, path = measure(config, plan, on_start=print_start)
    whole = sum(result["breakdown"].values())
    print(f"\n{'part of a step':16}{'milliseconds':>14}{'share':>9}")
    for phase, seconds in result["breakdown"].items():
        print(f"{phase:16}{1e3 * seconds:14.3f}{seconds / whole:9.1%}")
    print()
    for line in result_table([result]):
        print(line)
    if options.profile:
        print(f"trace {path / TRACE}: tensorboard --logdir, or https://ui.perfetto.dev")
    print(path / RESULT)
    return 0


def print_start(corpus: Corpus) -> None:
    if corpus.embedded_sample:
        print("No --data-dir: training on the embedded sample corpus, made-up résumés. Its figures are of the sample.")
    sizes = ", ".join(f"{len(sentences):,} {split}" for split, sentences in corpus.splits.items())
    print(f"corpus {corpus.path}: {sizes} sentences, scheme {corpus.scheme}")
    for warning in corpus.warnings[:WARNINGS_SHOWN]:
        print(f"warning: {warning}")
    if len(corpus.warnings) > WARNINGS_SHOWN:
        print(f"warning: and {len(corpus.warnings) - WARNINGS_SHOWN:,} more: python -m ray_bilstm check DIR shows all")
    print("starting Ray and the workers ...", flush=True)


def print_coverage(outside: dict[str, Any]) -> None:
    """What files or another model know of the corpus."""
    if "lexicon" in outside:
        own = f"{outside['own_words']:,} of them have a vector of their own"
        print(f"lexicon {outside['lexicon']}: {outside['words']:,} words of known characters, {own}", flush=True)
    if "splits" not in outside:
        return
    source = outside.get("embeddings") or outside.get("init_from")
    scaled = f", scaled by {outside['scaled_by']:.3g}" if "scaled_by" in outside else ""
    print(f"start {source}: {outside['vectors']:,} vectors{scaled}")
    for split, part in outside["splits"].items():
        if part["characters"]:
            known = f"{part['known_characters']:,} of {part['characters']:,} characters"
            print(f"  {split}: {known}, {part['known_text']:.2%} of the text")
    bigrams = f"{outside['known_bigrams']:,} of {outside['bigrams']:,} bigrams of train"
    added = f"{outside['added_characters']:,} characters and {outside['added_bigrams']:,} bigrams that train lacks"
    print(f"  {bigrams}; {added} join the vocabulary", flush=True)


def _print_epoch(record: dict[str, Any]) -> None:
    dev = record["dev"]
    print(
        f"epoch {record['epoch']:3d}  loss {record['train_loss']:8.4f}  dev entity F1 {dev['entity']['f1']:.4f}"
        f"  token F1 {dev['token']['f1']:.4f}  lr {record['learning_rate']:.2e}"
        f"  {record['sentences_per_second']:,.0f} sentences/s{'  best' if record['best'] else ''}",
        flush=True,
    )


def _print_event(text: str) -> None:
    print(text, flush=True)


def result_table(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Rows in the form of the published table that this project is measured against."""
    yield "| NAME | Entity F1 | Token F1 | FPS | AMP | Torch |"
    yield "|---|---|---|---|---|---|"
    for result in results:
        scores = [f"{result['test'][kind]['f1']:.4f}" if "test" in result else "–" for kind in ("entity", "token")]
        yield (
            f"| {result['name']} | {' | '.join(scores)} | {result['sentences_per_second']:,.0f}"
            f" | {result['amp_opt_level']} | {result['versions']['torch']} |"
        )
