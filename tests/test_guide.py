"""Every command and every piece of Python of the guide runs, page by page, on a tiny corpus with small settings.

A page's blocks run one after another in a directory of its own. What cannot run here is marked where it stands,
`<!-- not run: why -->` above the block, or begins with words of ELSEWHERE. Chinese pages have the same blocks.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from ray_bilstm import corpus

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
TWINS = {
    "README.md": "README.zh-CN.md",
    **{f"docs/{path.name}": f"docs/zh/{path.name}" for path in ROOT.glob("docs/zh/*")},
}
ELSEWHERE = {
    "pip install ": "installs packages: test_extras_that_are_named_exist",
    "make ": "what CI runs; test_make_targets_exist",
    "ray ": "needs a cluster: tests/test_jobs.py submits",
    "export RAY_": "says where that cluster is",
}
"""Beginnings of lines that are left out, and why."""
FAST = ("docs/data.md",)
ENGLISH_ONLY = {"accuracy", "benchmarks", "ensemble", "outside_knowledge", "reliability"}

# What a person types, with small settings behind it, of which argparse takes the last.
PRELUDE = r"""
shopt -s expand_aliases
python() {
  case "$*" in
    *jobs/perf_*) set -- "$@" --device cpu --num-workers 1 --warmup-steps 1 --measured-steps 2 ;;
    *" --search random"*) set -- "$@" --seeds 1 --samples 2 --train-epochs 2 --device cpu ;;
    *jobs/tune.py*--resume) set -- "$@" --seeds 1,2 --batch-sizes 16 --train-epochs 1 --device cpu ;;
    *jobs/tune.py*) set -- "$@" --seeds 1 --batch-sizes 16 --train-epochs 1 --device cpu ;;
    *--stop-after*) set -- "$@" --stop-after 1 --train-epochs 2 --device cpu ;;
    *--resume) set -- "$@" --train-epochs 2 --device cpu ;;
    *jobs/train_*|*" train"*) set -- "$@" --train-epochs 1 --num-workers 1 --device cpu ;;
    *" pretrain"*) set -- "$@" --train-epochs 1 --device cpu ;;
    *" serve"*)
      command python "$@" --port "$PORT" > serve.out 2> serve.log & echo $! > serve.pid
      until grep -q http serve.out; do kill -0 $! || { cat serve.log >&2; exit 1; }; sleep .2; done
      return ;;
  esac
  command python "$@"
}
curl() { command curl --silent --show-error --fail-with-body "${@//127.0.0.1:8000/127.0.0.1:$PORT}"; }
"""


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    source: str
    reason: str
    """Why it is not run; empty where it is."""


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    found = re.findall(r"(?:<!-- not run: (.+) -->\n)?```(sh|python)\n(.*?)```", read(page), re.DOTALL)
    return [Block(kind, source, reason) for reason, kind, source in found]


def runnable(block: Block) -> str:
    """Without the lines that belong elsewhere."""
    lines = re.sub(r"\\\n\s*", "", block.source).splitlines()
    return "\n".join(line for line in lines if not line.startswith(tuple(ELSEWHERE)))


WITH_BLOCKS = [page for page in PAGES if any(not block.reason for block in blocks(page))]


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture
def place(tmp_path: Path, trained: Path, sentences: list[corpus.Sentence]) -> Path:
    """What the pages speak of: models, corpora, texts, vectors, words."""
    for name in ("NAME", "1", "2", "3"):
        shutil.copytree(trained, tmp_path / "runs" / name / "best")
    for folder, name in (("corpus", "{}.bmes"), ("ResumeNER", "{}.char.bmes")):
        (tmp_path / folder).mkdir()
        for split in ("train", "dev", "test"):
            corpus.write_sentences(tmp_path / folder / name.format(split), sentences, scheme="BMES")
    for folder in ("jobs", "docs", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    texts = "".join("".join(sentence.tokens) + "\n" for sentence in sentences)
    for name in ("resumes.txt", "news.txt", "more.txt"):
        (tmp_path / name).write_text(texts if name == "resumes.txt" else 60 * texts, encoding="utf-8")
    (tmp_path / "words.txt").write_text("汉族 3 nz\n硕士 5 n\n", encoding="utf-8")
    vectors = (f"{character} {' '.join(['0.5'] * 300)}\n" for character in "汉族硕士")
    (tmp_path / "vectors.txt").write_text("".join(vectors), encoding="utf-8")
    return tmp_path


@pytest.mark.timeout(900)  # many starts of Ray
@pytest.mark.parametrize(
    "page", [page if page in FAST else pytest.param(page, marks=pytest.mark.slow) for page in WITH_BLOCKS]
)
def test_the_page_runs(page: str, place: Path) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the guide exports a model: pip install '.[export]'")
    if "--output-dir runs/NAME\n" in read(page):
        shutil.rmtree(place / "runs" / "NAME")  # it is trained here
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_ADDRESS": "local",
        "PORT": str(free_port()),
    }
    try:
        for block in blocks(page):
            if block.reason:
                continue
            shell = ["bash", "-euo", "pipefail", "-c", PRELUDE + runnable(block)]
            words = shell if block.kind == "sh" else [sys.executable, "-c", block.source]
            done = subprocess.run(
                words, cwd=place, env=environment, capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL
            )
            assert done.returncode == 0, f"{block.source}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr
    finally:
        if (place / "serve.pid").exists():
            with suppress(ProcessLookupError):
                os.kill(int((place / "serve.pid").read_text()), signal.SIGTERM)
    made = {
        "docs/predict.md": {"tagged", "tagged.jsonl", "tagged.bmes", "tagged.html", "report.json", "onnx"},
        "docs/data.md": {"check.json", "dev.jsonl", "dev.bio"},
        "docs/train.md": {"runs/a/report.html", "runs/b/result.json", "runs/c/tensorboard", "runs/d/mlflow.json"},
        "docs/tune.md": {"runs/search/study.html", "runs/search/best", "runs/random/study.json"},
    }
    assert not [name for name in made.get(page, ()) if not (place / name).exists()]


@pytest.mark.parametrize("page", TWINS)
def test_the_chinese_page_has_the_same_blocks(page: str) -> None:
    def plain(text: str) -> list[tuple[str, str, bool]]:
        return [(block.kind, re.sub(r" *# .*", "", block.source), bool(block.reason)) for block in blocks(text)]

    assert plain(TWINS[page]) == plain(page)


def test_every_page_for_users_is_chinese_too() -> None:
    english = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in (ROOT / "docs" / "zh").glob("*.md")} == english - ENGLISH_ONLY
    assert all(f"{name}.md" in read("docs/zh/index.md") for name in english)


def test_extras_that_are_named_exist() -> None:
    project = read("pyproject.toml")
    named = {name for page in [*PAGES, *TWINS.values()] for name in re.findall(r"'\.\[([\w,]+)\]'", read(page))}
    assert named >= {"npu", "export", "serve", "mlflow", "optuna"}
    assert not [name for names in named for name in names.split(",") if f"\n{name} = [" not in project]


def test_make_targets_exist() -> None:
    named = {
        name
        for page in [*PAGES, *TWINS.values()]
        for name in re.findall(r"(?:^|`)make ([a-z-]+)", read(page), re.MULTILINE)
    }
    assert named >= {"train", "test", "tour", "docs"}
    assert not [name for name in named if f"\n{name}:" not in read("Makefile")]


def test_the_guide_is_built_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(ROOT / ".ci/docs/mkdocs.yml")]
    done = subprocess.run([*words, "-d", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    loaded = r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?:https?:)?//"
    assert not [path for path, text in pages.items() if re.search(loaded, text)]
    styles = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.css")]
    assert not [text for text in styles if re.search(r"url\([\"']?https?:|@import", text)]
    assert '<html class="writer-html5" lang="zh-CN"' in pages[tmp_path / "zh" / "train.html"]
    assert 'href="zh/train.html">中文' in pages[tmp_path / "train.html"]
