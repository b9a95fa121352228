"""The report of a run and the model card: whole, self-contained, escaped, and quiet about what was not measured."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser

from ray_bilstm.card import render_card
from ray_bilstm.report import render_report

VOID = {"meta", "link", "br", "hr", "img"}
SECTIONS = [
    "curves",
    "scores",
    "entity-types",
    "confusion",
    "time",
    "corpus",
    "warnings",
    "run-and-versions",
    "configuration",
    "reproduce",
]
TYPES = {"CONT": 28, "EDU": 112, "LOC": 6, "NAME": 112, "ORG": 553, "PRO": 33, "RACE": 14, "TITLE": 772}
HOSTILE = "<script>alert(1)</script>\"'&|"


def scores(entity: float, token: float) -> dict[str, Any]:
    def three(f1: float) -> dict[str, float]:
        return {"precision": max(0.0, f1 - 0.002), "recall": min(1.0, f1 + 0.002), "f1": f1}

    return {
        "entity": three(entity),
        "token": three(token),
        "per_type": {name: {**three(entity), "support": support} for name, support in TYPES.items()},
    }


def make_history(epochs: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        gone = math.exp(-epoch / 3)
        lines.append(
            {
                "epoch": epoch,
                "train_loss": 30 * gone + 0.4,
                "learning_rate": 0.003 * (1 - epoch / (epochs + 1)),
                "gradient_norm": 8 * gone + 1,
                "steps": 60,
                "dev": scores(0.955 - 0.5 * gone, 0.966 - 0.3 * gone),
                "sentences_per_second": 1900.0,
                "seconds": {"train": 2.0, "evaluation": 0.2},
                "best": True,
            }
        )
    return lines


def make_result() -> dict[str, Any]:
    tags = ["O", *(f"{part}-{name}" for name in TYPES for part in "BME"), "S-NAME", "S-ORG", "S-RACE"]
    matrix = [[1000 if row == column else (row * column) % 7 // 6 for column in range(28)] for row in range(28)]
    matrix[-1] = [0] * 28
    return {
        "name": "1p-cpu",
        "device": "cpu",
        "device_name": "a processor",
        "backend": "gloo",
        "num_workers": 1,
        "amp_opt_level": "O0",
        "dtype": "float32",
        "head": "crf",
        "seed": 1234,
        "batch_size": 64,
        "train_epochs": 30,
        "best_epoch": 27,
        "epochs_run": 30,
        "versions": {"ray_bilstm": "0.1.0", "python": "3.11.9", "torch": "2.4.1", "ray": "2.35.0", "torch_npu": None},
        "corpus": {
            "path": "/data/ResumeNER",
            "embedded_sample": False,
            "sha256": {"train": "9f86d081884c7d659a2f" * 3, "dev": "60303ae22b998861bce3" * 3, "test": None},
            "sentences": {"train": 3821, "dev": 463, "test": 477},
        },
        "dev": scores(0.9586, 0.9641),
        "test": {**scores(0.9512, 0.9634), "confusion": {"tags": tags, "matrix": matrix}},
        "sentences_per_second": 1893.4,
        "seconds": {"startup": 6.1, "data": 3.4, "train": 61.2, "evaluation": 7.9, "total": 80.2},
        "peak_memory_bytes": 812 * 2**20,
        "parameters": 1234567,
        "warnings": ["train.char.bmes:1042: sentence 17 is also in dev"],
    }


CONFIG: dict[str, Any] = {
    "data": {"data_dir": "/data/ResumeNER", "max_length": None},
    "model": {"hidden_size": 256, "head": "crf"},
    "training": {"learning_rate": 0.003, "buckets": [32, 64, 178]},
    "run": {"device": "auto"},
}
COMMAND = "python jobs/train_1p.py --data-dir /data/ResumeNER --seed 1234"
SHOWN = "python jobs/train_1p.py --data-dir .../ResumeNER --seed 1234"


class Page(HTMLParser):
    """Checks that tags nest and collects what the tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str, cls: str = "") -> int:
        return sum(name == tag and cls in ["", *(attrs.get("class") or "").split()] for name, attrs in self.tags)

    @property
    def sections(self) -> list[str | None]:
        return [attrs.get("id") for tag, attrs in self.tags if tag == "section"]


def page_of(result: dict[str, Any], epochs: int = 30) -> Page:
    return Page(render_report(result, make_history(epochs), CONFIG, command=COMMAND))


def test_a_full_run_shows_every_section_and_figure() -> None:
    page = page_of(make_result())
    assert page.sections == SECTIONS
    assert page.count("svg") == 4
    for text in ["0.9512", "0.9634", "1,893", "27", "of 30 run", "entity: strict, micro-averaged", SHOWN]:
        assert text in page.text
    for text in ["token: weighted by support, O included", "772", "9f86d081884c", "3,821", "[32, 64, 178]", "812 MiB"]:
        assert text in page.text
    assert "best: epoch 27" in page.text
    assert "epoch 27: entity F1 0.9549 (best epoch)" in page.text
    assert "S-RACE" in page.text and page.count("td", "hit") == 27


def test_the_page_needs_nothing_from_elsewhere() -> None:
    source = render_report(make_result(), make_history(3), CONFIG, command=COMMAND)
    page = Page(source)
    assert page.count("script") == page.count("img") == 0
    for tag, attrs in page.tags:
        assert not {"src", "srcset", "data", "action"} & attrs.keys(), tag
        assert attrs.get("href") in (None, "data:,", *(f"#{section}" for section in page.sections))
    assert not re.search(r"https?://|@import|url\(", source)
    assert "prefers-color-scheme: dark" in source


def test_the_same_run_gives_the_same_page() -> None:
    assert render_report(make_result(), make_history(5), CONFIG) == render_report(
        make_result(), make_history(5), CONFIG
    )


def test_folders_of_the_machine_are_not_shown() -> None:
    result, config = make_result(), {**CONFIG, "run": {"output_dir": "/home/a&b/runs/x", "mlflow": "sqlite:///m.db"}}
    config["run"]["storage_path"] = "file:///srv/me/runs"
    result["warnings"] = ["/data/ResumeNER/train.char.bmes:1: '/' is no tag; kept is data/x"]
    page = Page(render_report(result, make_history(2), config, command=f"{COMMAND} --lexicon '/data/my words'"))
    assert "/data/" not in page.text
    assert "a&b" not in page.text
    assert "/srv" not in page.text
    for shown in (".../ResumeNER/train.char.bmes:1: '/' is no tag; kept is data/x", ".../x", "sqlite:///m.db"):
        assert shown in page.text
    assert "--data-dir .../ResumeNER --seed 1234 --lexicon '.../my words'" in page.text


def test_names_from_outside_are_escaped_everywhere() -> None:
    result = make_result()
    result["name"] = result["device_name"] = result["corpus"]["path"] = HOSTILE
    result["test"]["per_type"] = {HOSTILE: {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}}
    result["test"]["confusion"] = {"tags": ["O", f"B-{HOSTILE}"], "matrix": [[3, 1], [2, 4]]}
    result["warnings"] = [HOSTILE]
    result["seconds"][HOSTILE] = 1.0
    result["corpus"]["sentences"] = {HOSTILE: 1}
    result["versions"] = {HOSTILE: HOSTILE}
    config = {HOSTILE: {HOSTILE: [HOSTILE]}}
    source = render_report(result, make_history(2), config, command=HOSTILE)
    assert "<script" not in source
    assert Page(source).text.count("<script>alert(1)</script>") > 10
    body = render_card(result, config).split("---\n", 2)[2]
    assert "<script" not in body.replace("\\<script", "")


def test_undecodable_names_can_be_written() -> None:
    result = make_result()
    result["corpus"]["path"] = "/data/\udcff"
    render_report(result, [], CONFIG).encode("utf-8")
    render_card(result, CONFIG).encode("utf-8")


@pytest.mark.parametrize("sample", [True, False])
def test_the_sample_corpus_is_said_plainly_and_only_then(sample: bool) -> None:
    result = make_result()
    result["corpus"]["embedded_sample"] = sample
    assert page_of(result).count("p", "notice") == sample
    assert ("not on ResumeNER" in render_card(result, CONFIG)) == sample


@pytest.mark.parametrize("absent", ["none", "no key"])
def test_without_a_test_score_dev_stands_alone(absent: str) -> None:
    result = make_result()
    result["test"] = None
    if absent == "no key":
        del result["test"]
    page = page_of(result)
    assert page.sections == [section for section in SECTIONS if section != "confusion"]
    assert "Dev entity F1" in page.text and "Test entity F1" not in page.text
    assert "This run made no test score." in page.text
    assert "no test score was made" in render_card(result, CONFIG)


def test_a_throughput_run_has_no_scores_at_all() -> None:
    result = {key: value for key, value in make_result().items() if key not in ("dev", "test", "best_epoch")}
    history = [{"epoch": 1, "train_loss": 1.0}]
    page = Page(render_report(result, history, {}))
    assert page.sections == ["curves", "time", "corpus", "warnings", "run-and-versions"]
    assert page.count("svg") == 1
    assert "model-index" not in render_card(result, {})


def test_an_almost_empty_result_still_renders() -> None:
    page = Page(render_report({}, [], {}))
    assert "No epochs recorded." in page.text
    assert render_card({}, {}).startswith("---\nlanguage: zh\n")


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_any_number_of_epochs(epochs: int) -> None:
    page = page_of(make_result(), epochs)
    assert page.count("circle") == 5 * epochs
    for tag, attrs in page.tags:
        if tag == "circle":
            assert 48 <= float(attrs["cx"] or "") <= 352 and 18 <= float(attrs["cy"] or "") <= 172


def test_zeros_and_numbers_that_are_none() -> None:
    result, history = make_result(), make_history(4)
    for line in history:
        line.update(train_loss=0.0, learning_rate=0.0, gradient_norm=math.inf, dev=scores(0.0, 0.0))
    history[2]["train_loss"] = math.nan
    result["test"] = {**scores(0.0, 0.0), "per_type": {}, "confusion": {"tags": ["O"], "matrix": [[0]]}}
    result["sentences_per_second"] = math.nan
    result["seconds"] = {"train": 0.0, "total": 0.0}
    page = Page(render_report(result, history, {"training": {"clip": math.nan}}))
    assert page.count("svg") == 3  # no finite gradient norm, so no such chart
    assert "0.0000" in page.text and "No entities in test." in page.text
    assert "time" not in page.sections
    assert not re.search(r"\b(nan|inf)\b", page.text, re.IGNORECASE)


@pytest.mark.parametrize("rate", [3e-3, 2e-5, 1e-7, 12.5, 4e7])
def test_axes_have_a_handful_of_short_ticks(rate: float) -> None:
    history = [{"epoch": epoch, "learning_rate": rate * (4 - epoch)} for epoch in (1, 2, 3)]
    source = render_report({}, history, {})
    ticks = re.findall(r'text-anchor="end">([^<]*)</text>', source)[1:]  # the first names the axis
    assert 3 <= len(ticks) <= 7 and ticks[0] == "0" and len(set(ticks)) == len(ticks)
    assert all(len(tick) <= 8 for tick in ticks)
    assert all(float(tick.replace(",", "")) >= 0 for tick in ticks)


def test_the_inputs_are_left_as_they_were() -> None:
    result, history, config = make_result(), make_history(2), copy.deepcopy(CONFIG)
    before = json.dumps([result, history, config])
    render_report(result, history, config)
    render_card(result, config)
    assert json.dumps([result, history, config]) == before


@pytest.mark.parametrize("name", ["1p-cpu", 'a "b": #c\n- d', HOSTILE, "模型 \U0001f600 \x7f"])
def test_the_card_opens_with_yaml_that_parses(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    result = make_result()
    result["name"] = name
    _, front, body = render_card(result, CONFIG).split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["language"] == "zh" and fields["pipeline_tag"] == "token-classification"
    assert fields["metrics"] == ["precision", "recall", "f1"] and "chinese" in fields["tags"]
    (model,) = fields["model-index"]
    assert model["name"] == " ".join(name.replace("\x7f", " ").split())
    (scored,) = model["results"]
    assert scored["dataset"] == {"name": "ResumeNER", "type": "resumener", "split": "test"}
    assert {"type": "f1", "name": "f1 (entity: strict, micro-averaged)", "value": 0.9512} in scored["metrics"]
    for heading in ["How to load", "Data", "Scores", "Recipe", "Limits"]:
        assert f"\n## {heading}\n" in body
    assert 'Tagger.load("best").predict("沈遥：女，中国国籍，无境外居留权，")' in body
    assert "uncertain scores: CONT, LOC, RACE." in body
    assert "| training.learning_rate | 0.003 |" in body


def test_a_type_name_cannot_break_the_table_of_the_card() -> None:
    result = make_result()
    result["test"]["per_type"] = {"A|B\n": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3}}
    assert r"| A\|B | 1.0000 | 1.0000 | 1.0000 | 3 |" in render_card(result, CONFIG)


@pytest.mark.parametrize("width", [1100, 390])
def test_a_browser_draws_it(tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_report(make_result(), make_history(30), CONFIG, command=COMMAND), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page, width=width)
        assert browser.complaints == []
        assert browser.requests == [page.as_uri()]
        assert browser.ask("document.documentElement.scrollWidth") == width, "only tables scroll"
        assert browser.ask("document.querySelector('#curves svg').getBoundingClientRect().width") > 300
        tops = "[...document.querySelectorAll('#run-and-versions table')].map(one => one.getBoundingClientRect().top)"
        left, right = browser.ask(tops)
        assert (left == right) is (width > 700), "side by side, they begin at one height"
        broken = "[...document.querySelectorAll('pre span')].filter(one => one.getClientRects().length > 1).length"
        assert browser.ask(broken) == 0, "a flag is never cut behind its hyphen"
        assert browser.ask("document.querySelector('pre').innerText").strip() == SHOWN, "it can be copied"
