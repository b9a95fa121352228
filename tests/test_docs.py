"""What the README says is there is there, and the other way round."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ray_bilstm
from ray_bilstm.cli import COMMANDS
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
    assert len(shown.splitlines()) > 4


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
    assert f"jobs/{job}" in shown
    assert all(f"jobs/{job}" in (ROOT / readme).read_text(encoding="utf-8") for readme in READMES)


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_names_every_module(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    modules = {path.name for path in (ROOT / "ray_bilstm").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert not [module for module in sorted(modules) if module not in text]


@pytest.mark.parametrize("readme", READMES)
def test_links_to_files_lead_somewhere(readme: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / readme).read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_public_names() -> None:
    assert ray_bilstm.__all__ == ["Config", "Corpus", "Entity", "Sentence", "Tagger", "read_corpus"]
    assert all(getattr(ray_bilstm, name).__name__ == name for name in ray_bilstm.__all__)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = ray_bilstm.nothing_here
