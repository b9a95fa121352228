"""The command that exports a model: where to, in which shapes, and whether it came out right."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

TOLERANCE = 1e-4
"""How far an emission in ONNX Runtime may be from torch's."""


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="directory of a model, such as runs/NAME/best")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="what to write (default: onnx)")
    parser.add_argument(
        "--output-dir", type=Path, help="new directory (default: that of the model with -onnx behind it)"
    )
    parser.add_argument(
        "--shapes",
        type=_shape,
        nargs="+",
        default=[],
        metavar="TEXTSxCHARACTERS",
        help="also graphs of these fixed shapes, such as 1x64 8x128, and the atc command lines for them",
    )
    parser.add_argument("--soc-version", default="Ascend310P3", help="chip for atc (default: Ascend310P3)")


def _shape(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected texts x characters, such as 8x128")
    return int(found[1]), int(found[2])


def export_command(options: argparse.Namespace) -> int:
    """Write a model as ONNX, with a tagger that needs NumPy and ONNX Runtime alone.

    The graph gives emissions, for any number of texts of any length; Viterbi and entities are in tagger.py, in NumPy.
    The export is compared with the model on random texts. Needs pip install 'ray_bilstm[export]'.

    examples:
      python -m ray_bilstm export runs/NAME/best
      python -m ray_bilstm export runs/NAME/best --output-dir onnx --shapes 1x64 8x128 --soc-version Ascend910B3
      cd runs/NAME/best-onnx && python -c "from tagger import OnnxTagger; print(OnnxTagger('.').predict('王芳：女'))"
    """
    from ray_bilstm.export import check_export, export

    directory = options.output_dir or options.model.with_name(f"{options.model.name}-onnx")
    commands = export(options.model, directory, shapes=options.shapes)
    check = check_export(options.model, directory)
    tags = "equal tags" if check.equal else "other tags"
    print(f"{directory}: {check.texts} random texts, emissions within {check.difference:.1e}, {tags}")
    for arguments in commands.values():
        print(f"(cd {shlex.quote(str(directory))} && atc {arguments} --soc_version={options.soc_version})")
    if check.difference <= TOLERANCE and check.equal:
        return 0
    print(f"error: {directory}: the export is not the model: expected {TOLERANCE:.0e} and equal tags", file=sys.stderr)
    return 1
