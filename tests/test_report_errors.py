"""What a report tells of mistakes: as counted, escaped, said where something is left out; and the page in a browser."""

import base64
import copy
import hashlib
import re
from html.parser import HTMLParser

import pytest
from browser import Browser
from test_report import COMMAND, CONFIG, make_history, make_result
from test_report import Page as Nested

from ray_bilstm.evaluation import evaluate
from ray_bilstm.formats import Sentence
from ray_bilstm.predict import Entity
from ray_bilstm.report import render_report
from ray_bilstm.tags import Span, from_spans

SCRIPT = "<script>alert(1)</script>"
HOSTILE = "A&B<i>"
CASES = [  # tokens, gold, predicted with scores
    (
        "王芳任东海银行行长",
        [(0, 2, "NAME"), (3, 7, "ORG"), (7, 9, "TITLE")],
        [(0, 2, "NAME", 0.99), (3, 9, "ORG", 0.61)],
    ),
    ("李强，汉族", [(0, 2, "NAME"), (3, 5, "RACE")], [(2, 3, "ORG", 0.2), (3, 5, "RACE", 0.9)]),
    ("无境外居留权", [], [(1, 3, "ORG", 0.41)]),
    ("教授", [(0, 2, "TITLE")], [(0, 2, "ORG", 0.55)]),
    ("王芳", [(0, 2, "NAME")], [(0, 2, "NAME", 1.0)]),
    ((SCRIPT, "Ada", "Lovelace", "甲" * 300, *"乙" * 400), [(0, 1, HOSTILE)], [(1, 3, HOSTILE, 0.3)]),
]


def make_evaluation() -> dict:
    sentences, predicted = [], []
    for line, (tokens, gold, guessed) in enumerate(CASES, 1):
        tags = from_spans([Span(*one) for one in gold], len(tokens), "BMES")
        sentences.append(Sentence(tuple(tokens), tuple(tags), line))
        predicted.append([Entity("", type, start, end, score) for start, end, type, score in guessed])
    types = ("NAME", "ORG", "RACE", "TITLE", HOSTILE)
    tags = ["O", *(f"{prefix}-{type}" for type in types for prefix in "BMES")]
    figures = evaluate(sentences, predicted, tags=tags, scheme="BMES", train=sentences[4:5], errors=200)
    return {"split": "test", "sentences_of_split": 6, "device": "cpu", "dtype": "float32", "seconds": 0.1, **figures}


def render(evaluation: dict, **changed) -> str:
    return render_report({**make_result(), **changed}, make_history(3), CONFIG, evaluation, command=COMMAND)


class Page(HTMLParser):
    """The lines of each wrong sentence, without and with what stands in marks, its mistakes, and the choices."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.lines, self.marks, self.mistakes, self.choices, self.scripts, self.open = [], [], [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        given = dict(attributes)
        if tag == "dd" and "dl" in self.open and "ol" in self.open:
            self.lines.append("")
        elif tag == "mark":
            self.marks.append(("wrong" in (given.get("class") or ""), ""))
        elif tag == "option":
            self.choices.append((given["value"], ""))
        elif tag == "script":
            self.scripts.append("")
        elif "data-kind" in given:
            self.mistakes.append((given["data-kind"], given["data-types"], ""))

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        inside = self.open[-1:]
        if "mark" in self.open:
            self.marks[-1] = (self.marks[-1][0], self.marks[-1][1] + ("|" if inside == ["small"] else "") + data)
        if "dd" in self.open and "ol" in self.open and inside != ["small"]:
            self.lines[-1] += data
        if inside == ["option"]:
            self.choices[-1] = (self.choices[-1][0], data)
        if inside == ["script"]:
            self.scripts[-1] += data
        if self.mistakes and self.open[-2:] != ["dl", "dt"] and "ul" in self.open and "ol" in self.open:
            self.mistakes[-1] = (*self.mistakes[-1][:2], self.mistakes[-1][2] + data)


def test_a_sentence_stands_there_twice_with_its_entities() -> None:
    page = Page(render(make_evaluation()))
    assert page.lines[:2] == ["王芳任东海银行行长"] * 2
    assert page.marks[:5] == [
        (False, "王芳|NAME"),
        (True, "东海银行|× ORG"),
        (True, "行长|× TITLE"),
        (False, "王芳|NAME 0.99"),
        (True, "东海银行行长|× ORG 0.61"),
    ]
    assert [mistake[:2] for mistake in page.mistakes[:2]] == [("boundary", "2"), ("boundary and type", "2 4")]
    assert page.mistakes[0][2].strip() == "boundary 东海银行 ORG → 东海银行行长 ORG 0.61"
    assert len(page.lines) == 10, "five of six sentences went wrong"


def test_the_choices_count_the_sentences_that_they_leave() -> None:
    evaluation = make_evaluation()
    page = Page(render(evaluation))
    kinds = {
        value: int(re.search(r"\((\d+)\)", name)[1]) for value, name in page.choices if value and value[0].isalpha()
    }
    assert kinds == {"type": 1, "boundary": 1, "boundary and type": 1, "missed": 2, "spurious": 3}
    names = evaluation["types"]["types"]
    types = {names[int(value)]: name for value, name in page.choices if value.isdigit()}
    assert types == {"NAME": "NAME (1)", "ORG": "ORG (4)", "TITLE": "TITLE (2)", HOSTILE: f"{HOSTILE} (1)"}


def test_text_of_a_corpus_is_escaped_and_long_stretches_are_cut() -> None:
    source = render(make_evaluation())
    assert source.count("<script") == source.count("</script") == 1, "its own"
    assert "<i>" not in source
    cut = next(line for line in Page(source).lines if "script" in line)
    assert cut.startswith(f"{SCRIPT}Ada Lovelace") and " … " in cut
    assert cut.count("乙") == 157, "80 tokens at each end, three of them others"
    assert Nested(source).count("ol", "errors") == 1


def test_the_policy_lets_the_own_script_run_and_no_other() -> None:
    source = render(make_evaluation())
    (script,) = Page(source).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in source
    assert not re.search(r"https?://|@import|url\(", source)
    assert "<script" not in render({}) and "script-src" not in render({})


def test_tables_have_kinds_types_and_intervals() -> None:
    evaluation = make_evaluation()
    result = {"test": evaluation, "dev": None}
    page = Nested(render(evaluation, **result))
    assert "mistakes" in page.sections and "wrong-sentences" in page.sections
    for title in ("gold TITLE, predicted ORG: 2 (100.00%)", "gold none, predicted ORG: 2 (66.67%)"):
        assert [attrs for _, attrs in page.tags if attrs.get("title") == title], title
    low, high = (evaluation["per_type"]["NAME"][end] for end in ("low95", "high95"))
    assert f"{low:.4f} to {high:.4f}" in page.text
    assert "95 % of F1" in page.text
    assert "not in train" in page.text
    other = {**evaluation, "split": "dev"}
    assert "95 % of F1" not in Nested(render(other, **result)).text, "intervals of another split are no intervals of it"


def test_it_says_whose_figures_are_whose() -> None:
    page = Nested(render(make_evaluation(), device="npu", amp_opt_level="O2", dtype="bfloat16"))
    assert "read once more on cpu in float32" in page.text
    assert "the run's own (npu, O2, bfloat16)" in page.text


def test_what_is_left_out_is_said() -> None:
    evaluation = make_evaluation()
    assert "All 5, most mistakes first" in Nested(render(evaluation)).text
    many = Nested(render({**evaluation, "sentences_wrong": 1500, "sentences_of_split": 60_000}))
    assert "The worst 5 of 1,500, most mistakes first" in many.text
    assert "the first 6 of 60,000 sentences of test" in many.text


def test_without_mistakes_or_without_a_look_at_them() -> None:
    none = copy.deepcopy(make_evaluation()) | {"errors": [], "sentences_wrong": 0}
    assert "None went wrong." in Nested(render(none)).text
    failed = Nested(render({"failed": "MemoryError: <b>"}))
    assert "Not looked at: MemoryError: <b>" in failed.text
    assert "wrong-sentences" not in failed.sections
    assert "mistakes" not in Nested(render({})).sections


SHOWN = "[...document.querySelectorAll('.errors > li')].filter(one => one.offsetHeight).map(one => one.innerText)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(make_evaluation()), encoding="utf-8")
    return path


def test_the_filters_hide_what_they_should(browser: Browser, file) -> None:
    browser.open(file)
    assert len(browser.ask(SHOWN)) == 5
    browser.ask("document.querySelector('#filters select').focus()")
    browser.press("ArrowDown")  # by keyboard: the first kind
    (one,) = browser.ask(SHOWN)
    assert "教授" in one and "TITLE" in one
    assert browser.ask("document.querySelector('output').value") == "1 of 5 sentences shown"
    browser.press("Home", "Tab", *["ArrowDown"] * 3)  # all kinds; of the types the third: ORG
    assert browser.ask("document.activeElement.selectedOptions[0].text") == "ORG (4)"
    assert [("ORG" in text) for text in browser.ask(SHOWN)] == [True] * 4
    choose = (
        "{const [kind, type] = document.querySelectorAll('#filters select'); kind.value = 'missed'; type.value = '%s';"
    )
    browser.ask(choose % 2 + "type.dispatchEvent(new Event('change', {bubbles: true}))}")
    assert browser.ask(SHOWN) == [], "no ORG is missed, though one that misses a NAME has a spurious ORG"
    assert browser.complaints == []
    assert browser.requests == [file.as_uri()]


def test_without_javascript_everything_is_shown(browser: Browser, file) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(file)
    shown, controls = browser.ask(SHOWN), browser.ask("document.querySelector('#filters').offsetHeight")
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert (len(shown), controls) == (5, 0)


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_in_one_direction(browser: Browser, file, dark: bool) -> None:
    browser.open(file, width=360, height=740, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth") == 360
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 64) == dark
    assert browser.complaints == []


def test_paper_has_no_controls(browser: Browser, file) -> None:
    browser.open(file)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.ask("document.querySelector('#filters select').offsetHeight") == 0
    assert len(browser.ask(SHOWN)) == 5
