"""What the README says is there is there, and the other way round."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ray_bilstm
from ray_bilstm import corpus
from ray_bilstm.cli import COMMANDS, make_parser
from ray_bilstm.config import iter_flags

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")


def section(readme: str, name: str) -> str:
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found, f"{readme} has no part {name}"
    return found[1]


def settings_table() -> str:
    """The table of settings as the code has it."""
    rows = ["| flag | meaning | default |", "|---|---|---|"]
    for flag in iter_flags():
        default = "" if flag.default is None or flag.default is False else f"`{flag.default}`"
        choices = f" `{' '.join(flag.choices)}`" if flag.choices else ""
        rows.append(f"| `--{flag.name.replace('_', '-')}`{choices} | {flag.help} | {default} |")
    return "\n".join(rows) + "\n"


def test_the_readme_lists_every_setting() -> None:
    assert section("README.md", "settings") == settings_table(), f"write this:\n{settings_table()}"


@pytest.mark.parametrize("flag", [flag.name.replace("_", "-") for flag in iter_flags()])
def test_the_chinese_readme_lists_every_setting(flag: str) -> None:
    assert f"| `--{flag}`" in section("README.zh-CN.md", "settings")


@pytest.mark.parametrize("readme", READMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(command: str, readme: str) -> None:
    assert f"python -m ray_bilstm {command}" in (ROOT / readme).read_text(encoding="utf-8")
    words = [sys.executable, "-m", "ray_bilstm", command, "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT).stdout
    assert "usage: python -m ray_bilstm" in shown
    assert re.search(rf"\nexamples:\n  (.*\| )?python -m ray_bilstm {command}\b", shown)


@pytest.mark.parametrize("job", sorted(path.name for path in (ROOT / "jobs").glob("*.py")))
def test_jobs_are_executable_have_help_and_stand_in_the_readme(job: str) -> None:
    path = ROOT / "jobs" / job
    assert path.stat().st_mode & 0o111 == 0o111
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    words = [path, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert re.search(rf"\nexamples:\n  python jobs/{job} ", shown)
    assert f"\n  ray job submit --working-dir . -- python jobs/{job} " in shown
    assert all(f"jobs/{job}" in (ROOT / readme).read_text(encoding="utf-8") for readme in READMES)


def iter_commands(text: str):
    """Every command in a text: the words behind `python -m ray_bilstm`, without FLAGS, which stands for any others."""
    text = re.sub(r"\\\n\s*", "", text)
    for line in re.findall(r"^ *(?:.*\| )?python -m ray_bilstm (.*)$", text, re.MULTILINE):
        yield [word for word in shlex.split(re.split(r" [>|] ", line)[0], comments=True) if word != "FLAGS"]


PAGES = [*READMES, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
HELP = [pytest.param(function.__doc__ or "", id=f"help of {name}") for name, (_, function) in COMMANDS.items()]


@pytest.mark.parametrize("text", [*(pytest.param((ROOT / page).read_text("utf-8"), id=page) for page in PAGES), *HELP])
def test_every_command_that_is_shown_is_understood(text: str) -> None:
    parser = make_parser()
    for words in iter_commands(text):
        parser.parse_args(words)


def test_commands_are_found() -> None:
    shown = [words for page in PAGES for words in iter_commands((ROOT / page).read_text(encoding="utf-8"))]
    assert {words[0] for words in shown} >= {"train", "predict", "evaluate", "export", "ensemble", "tune"}
    assert list(iter_commands("cat x | python -m ray_bilstm predict a --no-scores > b\n")) == [
        ["predict", "a", "--no-scores"]
    ]
    with pytest.raises(SystemExit):
        make_parser().parse_args(["predict", "a", "--nothing-like-that"])


def test_the_guide_to_using_a_model_runs(tmp_path: Path, trained: Path, sentences: list[corpus.Sentence]) -> None:
    """All its commands and its Python, one after another."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the guide exports a model: pip install '.[export]'")
    shutil.copytree(trained, tmp_path / "runs" / "NAME" / "best")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    for split in ("train", "dev", "test"):
        corpus.write_sentences(tmp_path / "corpus" / f"{split}.bmes", sentences, scheme="BMES")
    texts = "".join("".join(sentence.tokens) + "\n" for sentence in sentences)
    (tmp_path / "resumes.txt").write_text(texts, encoding="utf-8")
    guide = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    blocks = {kind: "\n".join(re.findall(rf"```{kind}\n(.*?)```", guide, re.DOTALL)) for kind in ("sh", "python")}
    commands = "\n".join(line for line in blocks["sh"].splitlines() if not line.startswith("pip install"))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_ADDRESS": "local",
    }
    for words in (["bash", "-euo", "pipefail", "-c", commands], [sys.executable, "-c", blocks["python"]]):
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
    made = {"tagged", "tagged.jsonl", "tagged.bmes", "tagged.html", "report.json", "onnx"}
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert done.stdout.count("Entity(") > 3


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_names_every_module(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    modules = {path.name for path in (ROOT / "ray_bilstm").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert not [module for module in sorted(modules) if module not in text]


@pytest.mark.parametrize("readme", PAGES)
def test_links_to_files_lead_somewhere(readme: str) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / readme).read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (ROOT / readme).parent.joinpath(link).exists()]


def test_public_names() -> None:
    assert ray_bilstm.__all__ == ["Config", "Corpus", "Entity", "Sentence", "Tagger", "read_corpus"]
    assert all(getattr(ray_bilstm, name).__name__ == name for name in ray_bilstm.__all__)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = ray_bilstm.nothing_here
