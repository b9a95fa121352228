"""Shell completion in a real bash: commands, flags, choices, files; and what a key press costs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ray_bilstm import cli
from ray_bilstm.cli import COMMANDS
from ray_bilstm.config import iter_flags

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

# Bash calls the function that `complete` names, with these variables set, when TAB is pressed.
PRESS_TAB = """
eval "$(register-python-argcomplete ray_bilstm)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
read -ra COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$(complete -p ray_bilstm | grep -o -- '-F [^ ]*' | cut -c 4-) ray_bilstm "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path: Path):
    """What bash offers behind a line, in `tmp_path`."""
    if shutil.which("bash") is None:
        pytest.skip("no bash on PATH")
    script = tmp_path / "bin" / "ray_bilstm"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom ray_bilstm.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(script.parent), str(BIN), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }

    def complete(line: str) -> set[str]:
        words = ["bash", "--norc", "-c", PRESS_TAB, "bash", line]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return {word.strip() for word in done.stdout.splitlines()} - {""}

    return complete


def test_commands_are_offered(complete) -> None:
    assert complete("ray_bilstm ") >= set(COMMANDS)
    assert complete("ray_bilstm tr") == {"train"}
    assert complete("ray_bilstm e") == {"ensemble", "evaluate", "export"}


def test_flags_are_offered(complete) -> None:
    flags = {f"--{flag.name.replace('_', '-')}" for flag in iter_flags()}
    assert complete("ray_bilstm train --") >= flags
    assert complete("ray_bilstm train --batch") == {"--batch-size"}
    assert complete("ray_bilstm evaluate runs/a/best --sp") == {"--split"}


def test_choices_are_offered(complete) -> None:
    assert complete("ray_bilstm train --device ") == {"auto", "npu", "cuda", "cpu"}
    assert complete("ray_bilstm train --head s") == {"softmax"}
    assert complete("ray_bilstm check corpus --scheme BI") == {"BIOES", "BIO"}


def test_files_are_offered_where_a_path_is_asked_for(complete, tmp_path) -> None:
    (tmp_path / "resumes.txt").touch()
    assert complete("ray_bilstm predict resu") == {"resumes.txt"}


def test_a_key_press_imports_neither_torch_nor_ray_nor_numpy(tmp_path) -> None:
    answer, line = tmp_path / "answer", "ray_bilstm train --dev"
    program = (
        "import argcomplete, sys\n"
        "from ray_bilstm import cli\n"
        f"with open({str(answer)!r}, 'w') as answer:\n"
        "    argcomplete.autocomplete(cli.make_parser(), exit_method=lambda code: None, output_stream=answer)\n"
        "assert not {'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules), sys.modules"
    )
    environment = os.environ | {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "IFS": "\n"}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert answer.read_text().strip() == "--device"


def test_the_console_script_is_the_command_line() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.scripts]\nray_bilstm = "ray_bilstm.cli:main"\n' in text
    assert callable(cli.main)


@pytest.mark.parametrize(
    "path", ["ray_bilstm/__main__.py", *(f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py"))]
)
def test_what_python_runs_is_marked_for_global_completion(path: str) -> None:
    assert "PYTHON_ARGCOMPLETE_OK" in (ROOT / path).read_text(encoding="utf-8")[:1024]
