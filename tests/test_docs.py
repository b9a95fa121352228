"""What the README and the guide say is there is there, and the other way round."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ray_bilstm
from ray_bilstm import cli
from ray_bilstm.cli import COMMANDS, make_parser
from ray_bilstm.config import iter_flags

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
SETTINGS = ("docs/settings.md", "docs/zh/settings.md")
CODE = ("docs/contributing.md", "docs/zh/contributing.md")


def section(page: str, name: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found, f"{page} has no part {name}"
    return found[1]


def settings_table() -> str:
    """The table of settings as the code has it."""
    rows = ["| flag | meaning | default |", "|---|---|---|"]
    for flag in iter_flags():
        default = "" if flag.default is None or flag.default is False else f"`{flag.default}`"
        choices = f" `{' '.join(flag.choices)}`" if flag.choices else ""
        rows.append(f"| `--{flag.name.replace('_', '-')}`{choices} | {flag.help} | {default} |")
    return "\n".join(rows) + "\n"


def test_the_guide_lists_every_setting() -> None:
    assert section(SETTINGS[0], "settings") == settings_table(), f"write this:\n{settings_table()}"


@pytest.mark.parametrize("flag", [flag.name.replace("_", "-") for flag in iter_flags()])
def test_the_chinese_guide_lists_every_setting(flag: str) -> None:
    assert f"| `--{flag}`" in section(SETTINGS[1], "settings")


def test_the_chinese_guide_has_choices_and_defaults_too() -> None:
    def plain(page: str) -> list[tuple[str, str]]:
        rows = [row.split(" | ") for row in section(page, "settings").splitlines()[2:]]
        return [(row[0], row[-1]) for row in rows]

    assert plain(SETTINGS[1]) == plain(SETTINGS[0])


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_has_results_and_is_short(readme: str) -> None:
    assert section(readme, "results").count("| 1p-cpu | 0.") >= 2
    assert len((ROOT / readme).read_text(encoding="utf-8").splitlines()) <= 150


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
    for program, words in iter_programs(text):
        if program == "-m ray_bilstm":
            yield words


def iter_programs(text: str):
    """What stands behind every `python`, `-m ray_bilstm` or `jobs/NAME.py`, and its words."""
    text = re.sub(r"\$\w+", "1", re.sub(r"\\\n\s*", "", text))
    programs = r"^ *(?:.*\| |.*-- |[A-Z_]+=\S+ |)(?:python )?(-m ray_bilstm|jobs/\w+\.py) (.*)$"
    for program, rest in re.findall(programs, text, re.MULTILINE):
        words = shlex.split(re.split(r" (?:[>|]|\|\|) ", rest)[0], comments=True)
        yield program, [word for word in words if word not in ("FLAGS", "…")]


PAGES = [*READMES, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
JOBS = sorted(f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py"))
HELP = [pytest.param(function.__doc__ or "", id=f"help of {name}") for name, (_, function) in COMMANDS.items()]


@pytest.mark.parametrize("text", [*(pytest.param((ROOT / page).read_text("utf-8"), id=page) for page in PAGES), *HELP])
def test_every_command_that_is_shown_is_understood(text: str) -> None:
    parser = make_parser()
    for words in iter_commands(text):
        if words != ["--version"]:
            parser.parse_args(words)


@pytest.fixture
def job_parser(monkeypatch):
    """What a job understands."""

    def job_parser(job: str):
        found = []
        monkeypatch.setattr(cli, "_run", lambda parser, *_: found.append(parser))
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / job), run_name="__main__")
        return found[0]

    return job_parser


@pytest.mark.parametrize("text", [*PAGES, *JOBS])
def test_every_job_that_is_shown_is_understood(text: str, job_parser) -> None:
    for program, words in iter_programs((ROOT / text).read_text(encoding="utf-8")):
        if program in JOBS:
            job_parser(program).parse_args(words)


def test_jobs_are_found(job_parser) -> None:
    shown = {program for page in PAGES for program, _ in iter_programs((ROOT / page).read_text(encoding="utf-8"))}
    assert shown >= set(JOBS)
    assert list(iter_programs("ray job submit -- jobs/tune.py --seeds 1 || echo no")) == [
        ("jobs/tune.py", ["--seeds", "1"])
    ]
    with pytest.raises(SystemExit):
        job_parser("jobs/tune.py").parse_args(["--nothing-like-that"])


def test_commands_are_found() -> None:
    shown = [words for page in PAGES for words in iter_commands((ROOT / page).read_text(encoding="utf-8"))]
    assert {words[0] for words in shown} >= {"train", "predict", "evaluate", "export", "ensemble", "tune"}
    assert list(iter_commands("cat x | python -m ray_bilstm predict a --no-scores > b\n")) == [
        ["predict", "a", "--no-scores"]
    ]
    with pytest.raises(SystemExit):
        make_parser().parse_args(["predict", "a", "--nothing-like-that"])


@pytest.mark.parametrize("page", CODE)
def test_the_guide_names_every_module(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
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
