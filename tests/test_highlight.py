"""The highlighted page: what a reader sees is the text, whatever is in it."""

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm.highlight import iter_html, marked
from ray_bilstm.predict import Entity
from ray_bilstm.texts import Text


class Page(HTMLParser):
    """Texts, marks (class, title, label) and other text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts, self.marks, self.rest, self.where = [], [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "li":
            self.texts.append("")
            self.where = "li"
        if tag == "mark" and self.where == "li":
            self.marks.append((*map(dict(attributes).get, ("class", "title", "data-told")), ""))

    def handle_endtag(self, tag):
        if tag == "li":
            self.where = ""

    def handle_data(self, data):
        if self.where == "li":
            self.texts[-1] += data
        else:
            self.rest += data


def render(*tagged, types=("NAME", "ORG"), title="texts"):
    return "".join(iter_html(tagged, types, title=title))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), max_size=3))
def test_texts_stand_there_as_they_are(texts):
    tagged = [(Text(text, {}), [Entity(text[1:3], "NAME", 1, 3, 0.5)] if len(text) > 3 else []) for text in texts]
    page = Page(render(*tagged))
    assert page.texts == texts
    assert len(page.marks) == sum(len(entities) for _, entities in tagged)


def test_marks_have_type_and_score():
    found = [Entity("王芳", "NAME", 0, 2, 0.99987), Entity("东海银行", "ORG", 3, 7, 0.5), Entity("行", "ORG", 7, 8)]
    page = Page(render((Text("王芳任东海银行行", {}), found)))
    assert [mark[:3] for mark in page.marks] == [
        ("t0", "NAME 0.9999", "NAME"),
        ("t1 doubt", "ORG 0.5000", "ORG 50%"),
        ("t1", "ORG", "ORG"),
    ]
    assert "3 entities in 1 texts: ORG 2, NAME 1" in page.rest


def test_names_from_outside_are_escaped():
    page = render((Text("<b>&", {}), [Entity("<", "<i>\"'", 0, 1, 0.1)]), types=("<i>\"'",), title="<script>")
    assert not re.search(r"<(b|i|script)>", page)
    assert Page(page).texts == ["<b>&"]


def test_words_have_spaces_between_them():
    tagged = (Text(["Ada", "met", "Bob", "."], {}), [Entity("met Bob", "NAME", 1, 3, 1.0)])
    assert Page(render(tagged)).texts == ["Ada met Bob."]
    tagged = (Text(["Ada", "Lovelace", "met", "王", "芳"], {}), [Entity("", "NAME", 0, 2), Entity("", "NAME", 3, 5)])
    assert Page(render(tagged)).texts == ["Ada Lovelace met王芳"]


def test_the_page_needs_nothing_else():
    page = render((Text("王芳", {}), []))
    assert not re.search(r"<script|<img|src=|@import|url\(|https?://", page)
    assert "default-src 'none'" in page
    assert Page(render()).texts == []


def test_long_stretches_without_entities_can_be_cut_short():
    found = [Entity("", "NAME", 10, 12)]
    text = marked("一二三四五六七八九十王芳甲乙丙丁", found, lambda inside, entity: f"[{inside}]", most=4)
    assert text == "一二 … 九十[王芳]甲乙丙丁"
