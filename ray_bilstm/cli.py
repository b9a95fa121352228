"""python -m ray_bilstm COMMAND (`ray_bilstm COMMAND` too), and the jobs: parse, call one function, print.

Flags come from the fields of `config.py`; hyphens and underscores in them are the same thing. Exit codes: 0 done,
1 failed with a message on standard error, 2 not understood.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray_bilstm import __version__
from ray_bilstm.check import check, format_check
from ray_bilstm.cli_bulk import add_bulk_arguments, bulk_command
from ray_bilstm.cli_evaluate import add_evaluate_arguments, evaluate_command
from ray_bilstm.cli_export import add_export_arguments, export_command
from ray_bilstm.cli_predict import add_predict_arguments, predict_command
from ray_bilstm.cli_pretrain import add_pretrain_arguments, pretrain_command
from ray_bilstm.cli_serve import add_serve_arguments, serve_command
from ray_bilstm.cli_train import add_train_arguments, at_least, perf_command, train_command
from ray_bilstm.cli_tune import add_study_arguments, add_tune_arguments, study_command, tune_command
from ray_bilstm.config import Config, ConfigError, iter_flags
from ray_bilstm.corpus import CorpusError, convert_file, read_corpus
from ray_bilstm.tags import SCHEMES


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `python -m ray_bilstm`."""
    return _run(make_parser(), arguments, lambda options: COMMANDS[options.command][1](options))


def make_parser() -> argparse.ArgumentParser:
    """What `main` understands."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_bilstm", description="BiLSTM-CRF sequence taggers, trained through Ray."
    )
    parser.add_argument("--version", action="version", version=f"ray_bilstm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_arguments, function) in COMMANDS.items():
        text = inspect.cleandoc(function.__doc__ or "")
        command = commands.add_parser(
            name,
            help=text.partition("\n")[0].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        add_arguments(command)
    return parser


def train_job(arguments: Sequence[str] | None = None, *, description: str, **defaults: Any) -> int:
    """The command line of a training job, whose `defaults` replace those of the settings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_train_arguments(parser, **defaults)
    return _run(parser, arguments, lambda options: train_command(options, **defaults))


def perf_job(arguments: Sequence[str] | None = None, *, description: str, **defaults: Any) -> int:
    """The command line of a throughput job, whose `defaults` replace those of the settings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_train_arguments(parser, **defaults)
    group = parser.add_argument_group("measuring")
    group.add_argument("--warmup-steps", type=at_least(0), default=60, help="steps not measured (default: 60)")
    group.add_argument("--measured-steps", type=at_least(1), default=300, help="steps measured (default: 300)")
    group.add_argument("--profile", action="store_true", help="write a trace that TensorBoard and Perfetto open")
    return _run(parser, arguments, lambda options: perf_command(options, **defaults))


def tune_job(arguments: Sequence[str] | None = None, *, description: str) -> int:
    """The command line of `jobs/tune.py`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_tune_arguments(parser)
    return _run(parser, arguments, tune_command)


def evaluate_job(arguments: Sequence[str] | None = None, *, description: str) -> int:
    """The command line of `jobs/evaluate.py`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_evaluate_arguments(parser)
    return _run(parser, arguments, evaluate_command)


def bulk_job(arguments: Sequence[str] | None = None, *, description: str) -> int:
    """The command line of `jobs/predict.py`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_bulk_arguments(parser)
    return _run(parser, arguments, bulk_command)


def _run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    function: Callable[[argparse.Namespace], int],
) -> int:
    # torch would import an installed torch_npu by itself, and fail without CANN; it is imported where --device is npu.
    # Not setdefault: a process in which that went well leaves "1" to its children.
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(parser)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args([_hyphenated(argument) for argument in given])
    try:
        return function(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has had enough
        sys.stderr.close()
        return 0
    except Exception as error:
        if options.debug or not _is_expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _hyphenated(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _is_expected(error: Exception) -> bool:
    """Whether the message says all that a user needs. Looked up late: these modules import torch and ray."""
    if isinstance(error, (CorpusError, ConfigError, OSError)):
        return True
    ours = ("Accelerator", "Checkpoint", "Cluster", "Embeddings", "Export", "Run", "Serve", "Text", "Training", "Vocab")
    return type(error).__module__.startswith("ray_bilstm.") and type(error).__name__ in {f"{of}Error" for of in ours}


# the other commands ---------------------------------------------------------------------------------------------------


def _add_ensemble_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="directory to write")
    parser.add_argument(
        "models",
        type=Path,
        nargs="+",
        metavar="model",
        help="model directories; of a search directory, the models of the best configuration, one of each seed",
    )


def _ensemble(options: argparse.Namespace) -> int:
    """Make models vote: a directory that evaluate, predict and train --teacher take like that of one model.

    The models are copied into it. They share their tags; the sentences that they were trained on may differ.

    examples:
      python -m ray_bilstm ensemble runs/ensemble runs/1/best runs/2/best runs/3/best
      python -m ray_bilstm ensemble runs/ensemble runs/search-NAME
    """
    from ray_bilstm.ensemble_directory import write_ensemble
    from ray_bilstm.search_directory import SEARCH, best_models

    given = [best_models(path) if (path / SEARCH).is_file() else [path] for path in options.models]
    count = write_ensemble(options.output, [model for models in given for model in models])
    print(f"{options.output}: {count} models that vote")
    return 0


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=Path, help="corpus folder")
    parser.add_argument("--scheme", choices=("auto", *SCHEMES), default="auto", help="tag scheme (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _check(options: argparse.Namespace) -> int:
    """Look a corpus over before training: counts, lengths, duplicates, unseen characters and tags, illegal tags.

    examples:
      python -m ray_bilstm check ResumeNER
      python -m ray_bilstm check corpus --scheme BIO --json
    """
    report = check(read_corpus(options.data_dir, scheme=options.scheme))
    print(json.dumps(report, ensure_ascii=False) if options.json else format_check(report))
    return 0


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="labelled file: .bmes .bio .conll .txt .tsv .jsonl .parquet ...")
    parser.add_argument("target", type=Path, help="file to write; its suffix says the format")
    parser.add_argument("--scheme", choices=tuple(SCHEMES), help="tag scheme to write (default: the source's)")
    parser.add_argument("--source-scheme", choices=("auto", *SCHEMES), default="auto", help="scheme of the source")


def _convert(options: argparse.Namespace) -> int:
    """Convert a labelled file to another format or tag scheme.

    examples:
      python -m ray_bilstm convert ResumeNER/dev.char.bmes dev.jsonl
      python -m ray_bilstm convert dev.bio dev.bmes --scheme BMES
    """
    written, warnings = convert_file(
        options.source, options.target, scheme=options.scheme, source_scheme=options.source_scheme
    )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{options.target}: {written:,} sentences")
    return 0


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run directory")


def _report(options: argparse.Namespace) -> int:
    """Write the report.html of a finished run again.

    examples:
      python -m ray_bilstm report runs/NAME
    """
    from ray_bilstm.checkpoint import write_file
    from ray_bilstm.ending import command_of
    from ray_bilstm.report import render_report
    from ray_bilstm.run_directory import REPORT, read_config, read_evaluation, read_history, read_result

    run, result, config, command = options.run, read_result(options.run), read_config(options.run), ""
    with contextlib.suppress(ConfigError, TypeError):  # of a run of another version
        job = "python jobs/perf_1p.py" if "breakdown" in result else "python -m ray_bilstm train"
        command = command_of(job, Config.from_dict(config))
    page = render_report(result, read_history(run), config, read_evaluation(run), command=command)
    write_file(run / REPORT, page)
    print(run / REPORT)
    return 0


def _add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    devices = next(flag.choices for flag in iter_flags() if flag.name == "device")
    parser.add_argument("--device", choices=devices, default="auto", help="what training would run on (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(options: argparse.Namespace) -> int:
    """See whether training would work here: versions, devices, precision levels, workers that reach one another.

    Exit code 0 where it would.

    examples:
      python -m ray_bilstm doctor
      python -m ray_bilstm doctor --device npu --json
    """
    from ray_bilstm import doctor

    findings = doctor.examine(options.device)
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings], ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{finding.state:7}{finding.subject:16}{finding.text}")
    return doctor.verdict(findings)


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "train": (add_train_arguments, train_command),
    "pretrain": (add_pretrain_arguments, pretrain_command),
    "tune": (add_tune_arguments, tune_command),
    "study": (add_study_arguments, study_command),
    "evaluate": (add_evaluate_arguments, evaluate_command),
    "predict": (add_predict_arguments, predict_command),
    "serve": (add_serve_arguments, serve_command),
    "export": (add_export_arguments, export_command),
    "ensemble": (_add_ensemble_arguments, _ensemble),
    "check": (_add_check_arguments, _check),
    "convert": (_add_convert_arguments, _convert),
    "report": (_add_report_arguments, _report),
    "doctor": (_add_doctor_arguments, _doctor),
}
