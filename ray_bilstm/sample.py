# ruff: noqa: E501 (a Chinese character counts as two columns there; no line is longer than 120 characters)
"""The embedded sample: made-up Chinese résumés with the eight entity types of ResumeNER, for a first run without data.

A résumé is written about an invented person with an origin, a field, an education and a career that fit together, from
the rules of `sample_words.py`, and then cut into sentences as ResumeNER is: after a full stop, and after a comma before a year.

- Words after a `|` occur in dev and test only, so a model meets names, organisations and titles it has not learned.
- An organisation is one entity from its place to its department (`绍兴宏川化工有限公司财务部` + `经理`).
- Only `random.Random.random()` is drawn from, which yields the same numbers on every version and machine.

Figures reached on this corpus say that the pipeline works, and nothing about real text.
"""

from __future__ import annotations

import hashlib
import random
import re
from functools import cache

from ray_bilstm.corpus import Corpus, Sentence
from ray_bilstm.sample_words import (
    DEGREES,
    DEPARTMENTS,
    FIELDS,
    GROUPS,
    HEADS,
    KINDS,
    MUNICIPALITIES,
    PLACES,
    RULES,
    TITLES,
)
from ray_bilstm.tags import Span, from_spans

ENTITY = re.compile(r"<([A-Z]+):([^<>]+)>|(.)")
SENTENCE_ENDS = re.compile(r"(?<=。)|(?<=，)(?=\d{4}年)")
MAX_CHARACTERS = 170


def generate(
    *, seed: int = 0, train: int = 700, dev: int = 150, test: int = 150
) -> dict[str, list[tuple[list[str], list[str]]]]:
    """split -> [(characters, BMES tags), ...]; the same for the same arguments, and no sentence twice."""
    seen: set[str] = set()
    corpus = {}
    for number, (split, size) in enumerate({"train": train, "dev": dev, "test": test}.items()):
        rng = random.Random(seed * 3 + number)
        sentences: list[tuple[list[str], list[str]]] = []
        while len(sentences) < size:
            for marked in SENTENCE_ENDS.split(_Resume(rng, held_out=split != "train").write()):
                characters, tags = _parse(marked)
                text = "".join(characters)
                if 2 < len(text) <= MAX_CHARACTERS and text not in seen and len(sentences) < size:
                    seen.add(text)
                    sentences.append((characters, tags))
        corpus[split] = sentences
    return corpus


def _parse(marked: str) -> tuple[list[str], list[str]]:
    """`"<NAME:王静>，女"` -> its characters and their tags."""
    characters: list[str] = []
    spans = []
    for match in ENTITY.finditer(marked):
        start = len(characters)
        characters += match[2] or match[3]
        if match[1]:
            spans.append(Span(start, len(characters), match[1]))
    return characters, from_spans(spans, len(characters), "BMES")


@cache
def _words(text: str) -> tuple[list[str], list[str]]:
    """The words for everyone, and those held out for dev and test."""
    shown, _, held_out = text.partition("|")
    return shown.split(), held_out.split()


class _Resume:
    """One invented person. A slot is a fact about it, a number (`1_12`), a `slot_` method or a rule."""

    def __init__(self, rng: random.Random, *, held_out: bool) -> None:
        self._rng = rng
        self._held_out = 0.4 if held_out else 0.0  # chance that a word is one that train does not have
        self._track = self._pick("企业 企业 企业 企业 学者 官员 专业")
        self._field = self._pick("法律 金融 商贸" if self._track == "专业" else " ".join(FIELDS))
        self._group, trades, majors, faculties, self._works = FIELDS[self._field]
        studies, ranks, certificates = GROUPS[self._group]
        self._rules = RULES | {"trade": trades, "major": majors, "faculty": faculties, "works": self._works}
        self._rules |= {"study": studies, "a_certificate": certificates, "certificate": "<TITLE:{a_certificate}>"}
        self._level = int(self._pick("2 3" if self._track == "学者" else "0 1 1 1 2 2 3"))
        self._degree = min(1, self._level)
        born = self._int(1945, 1980)
        graduated = born + self._int(21, 24) + (0, 1, 3, 6)[self._level]
        now = max(graduated + 12, self._int(2009, 2018))
        self._start = self._clock = graduated * 12 + 6
        self._now = now * 12
        self._told: set[str] = set()  # slots filled so far: facts that need no repetition
        self._last: dict[str, str] = {}  # slot -> what it was filled with
        self._facts: dict[str, str] = {}
        self._kind, self._department, self._stage = "company", "", 2
        sex = self._pick("男 男 男 女")
        surname, given = self._fill("{last_name}"), self._fill(f"{{{sex}}}")
        space = "\u3000" if len(surname + given) == 2 and self._chance(0.15) else ""
        province, city = self._place()
        long_province = province + ("市" if province in MUNICIPALITIES else "省")
        loc = self._pick(f"{province}{city} {province}{city} {city or province} {long_province}{city and city + '市'}")
        self._facts = {"name": f"<NAME:{surname}{space}{given}>", "surname": f"<NAME:{surname}>", "sex": sex}
        self._facts |= {
            "he": "先生" if sex == "男" else "女士",
            "age": str(now - born),
            "born": str(born),
            "now": str(now),
        }
        self._facts |= {"loc": f"<LOC:{loc}>", "city": f"{city or province}市", "province": long_province}
        self._facts |= {"rank": f"<TITLE:{self._pick(ranks)}>", "own": self._fill("{brand}"), "space": "\u3000"}
        self._facts |= {"graduation": f"{graduated}年" + "7月" * self._chance(0.6), "enrolled": str(graduated - 4)}
        self._facts |= {"main": self._fill("{at}{own}{trade}{form}")}

    def write(self) -> str:
        """The résumé, its entities marked as `<TYPE:text>`."""
        study = "studies" if self._level > 0 and self._chance(0.4) else "education"
        chances = [
            ("opening", 1.0),
            (study, 0.5),
            ("career", 1.0),
            ("career", 0.65),
            ("present", 0.8),
            ("part_time", 0.45),
        ]
        chances += [("other", 0.5), ("other", 0.2)]
        return "".join(self._fill(self._pick(RULES[section])) for section, chance in chances if self._chance(chance))

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _int(self, low: int, high: int) -> int:
        return low + int(self._rng.random() * (high - low + 1))

    def _pick(self, text: str, *, half: slice = slice(None)) -> str:
        shown, held_out = _words(text)
        words = held_out if held_out and self._chance(self._held_out) else shown[half]
        return words[int(self._rng.random() * len(words))]

    def _fill(self, text: str) -> str:
        return re.sub(r"{(\w+)}", lambda match: self._slot(match[1]), text)

    def _slot(self, name: str) -> str:
        self._told.add(name)
        if name in self._facts:
            return self._facts[name]
        if name[0].isdigit():
            return str(self._int(*map(int, name.split("_"))))
        for _ in range(4):  # so that a list of things hardly ever names one of them twice running
            method = getattr(self, f"slot_{name}", None)
            text = method() if method else self._fill(self._pick(self._rules[name]))
            if text != self._last.get(name):
                break
        self._last[name] = text
        return str(text)

    def _place(self) -> tuple[str, str]:
        province, _, cities = self._pick(PLACES).partition(":")
        return province, self._pick(cities.replace(",", " ")) if cities else ""

    # Slots: places and time

    def slot_at(self) -> str:
        """绍兴, 浙江"""
        province, city = self._place()
        return city if city and self._chance(0.6) else province

    def slot_region(self) -> str:
        """绍兴市, 浙江省"""
        province, city = self._place()
        return city + "市" if city and self._chance(0.6) else province + "省市"[province in MUNICIPALITIES]

    def slot_month(self) -> str:
        """A month a little later than the one before."""
        self._clock += int((self._now - self._clock) * (0.02 + 0.2 * self._rng.random()))
        return f"{self._clock // 12}年{self._clock % 12 + 1}月"

    def slot_later(self) -> str:
        self.slot_month()
        return ""

    def slot_since(self) -> str:
        return self.slot_month() + self._pick("至今 起 至今，")

    def slot_span(self) -> str:
        """The next period; it takes a share of the time left, so that periods never run into the present."""
        begin = self._clock
        self._clock += max(1, int((self._now - begin) * (0.15 + 0.25 * self._rng.random())))
        form = (
            "{0}年{1}月至{2}年{3}月 {0}年{1}月至{2}年{3}月 {0}年{1}月-{2}年{3}月 {0}年{1}月--{2}年{3}月 {0}.{1}-{2}.{3}"
        )
        if begin // 12 < self._clock // 12:
            form += " {0}年至{2}年 {0}年-{2}年"
        return self._pick(form).format(begin // 12, begin % 12 + 1, self._clock // 12, self._clock % 12 + 1)

    # Slots: the person

    def slot_facts(self) -> str:
        """Some of what has not been told yet, in the usual order."""
        chances = {"birth": 0.85, "race": 0.35, "party": 0.35, "origin": 0.2, "edu": 0.7, "rank": 0.45}
        if self._told & {"age", "born"}:
            del chances["birth"]
        if "loc" in self._told:
            del chances["origin"]
        slots = [slot for slot, chance in chances.items() if slot not in self._told and self._chance(chance)]
        if self._chance(0.05) and not self._told & {"race", "party"}:
            slots = ["foreigner", *(slot for slot in slots if slot not in ("race", "party"))]
        elif self._chance(0.55):
            slots = ["cont", *slots]
        return self._fill("，".join(f"{{{slot}}}" for slot in slots or ["certificate"]))

    def slot_edu(self) -> str:
        return f"<EDU:{self._pick(DEGREES[self._level][0])}>"

    def slot_degree(self) -> str:
        """Each further degree is one level up."""
        degree = self._pick(DEGREES[self._degree][1])
        self._degree = min(self._degree + 1, max(self._level, 1))
        return f"<EDU:{degree}>"

    # Slots: work

    def slot_firm(self) -> str:
        """The company that the résumé is written for."""
        return f"<ORG:{self._fill(self._pick(RULES['firm_name']))}>"

    def slot_employer(self) -> str:
        """The next place of work, now and then with a department."""
        progress = (self._clock - self._start) / (self._now - self._start)
        self._stage = 0 if progress < 0.25 else 1 if progress < 0.6 else 2
        kind = self._pick(KINDS[self._track][self._stage])
        if kind == "office":
            kind = {"工": "institute", "医": self._pick("hospital institute"), "商": "bank", "法": "lawyers"}[
                self._group
            ]
        elif kind == "firm":
            kind = "lawyers" if self._field == "法律" else "auditors"
        elif kind == "factory" and not self._works:
            kind = "company"
        self._kind, self._department = kind, ""
        if kind in DEPARTMENTS and self._chance((0.5, 0.4, 0.15)[self._stage]):
            self._department = self._fill(self._pick(DEPARTMENTS[kind]))
        return f"<ORG:{self._slot('workplace' if kind == 'company' else kind)}{self._department}>"

    def slot_title(self) -> str:
        """What the person is at the current place of work."""
        if self._department:
            return f"<TITLE:{self._head(self._department)}>"
        title, side = self._pick(TITLES[self._kind][self._stage]), self._pick(RULES["side_title"])
        if self._kind != "company" or self._stage < 2 or ("董事" in title and "董事" in side) or self._chance(0.6):
            return f"<TITLE:{title}>"
        first, second = (side, title) if self._chance(0.5) else (title, side)
        return f"<TITLE:{first}>{self._pick('、 、 兼')}<TITLE:{second}>"

    def slot_duty(self) -> str:
        """What the person is today at the company that the résumé is written for: always the same."""
        if "duty" not in self._facts:
            self._kind, self._department, self._stage = "company", "", 2
            self._facts["duty"] = self.slot_title()
        return self._facts["duty"]

    def slot_step(self) -> str:
        """The next title at the current place of work: in a department first, then over the whole."""
        self._stage = min(2, self._stage + 1)
        self._department = ""
        if self._kind in DEPARTMENTS and self._stage == 1 and self._chance(0.7):
            department = self._fill(self._pick(DEPARTMENTS[self._kind]))
            return f"<ORG:{department}><TITLE:{self._head(department)}>"
        return f"<TITLE:{self._pick(TITLES[self._kind][self._stage])}>"

    def slot_post(self) -> str:
        return self.slot_employer() + (
            self._slot("steps") if self._stage < 2 and self._chance(0.2) else self.slot_title()
        )

    def slot_present(self) -> str:
        """The post of today: the same whenever it is told."""
        if "present" not in self._facts:
            clock, self._clock = self._clock, self._now
            elsewhere = self._track in ("学者", "专业") and self._chance(0.7)
            self._facts["present"] = self._fill("{employer}{title}" if elsewhere else "{firm}{duty}")
            self._clock = clock
        return self._facts["present"]

    def _head(self, department: str) -> str:
        who = next(who for end, who in HEADS.items() if end == self._kind or department.endswith(end))
        middle = len(_words(who)[0]) // 2
        return self._pick(who, half=slice(middle, None) if self._stage == 0 else slice(middle + 1))


def sample_corpus() -> Corpus:
    """The sample as a corpus. A sentence's line is where it would stand in a file of columns."""
    splits, sha256 = {}, {}
    for split, generated in generate().items():
        sentences, line = [], 1
        for characters, tags in generated:
            sentences.append(Sentence(tuple(characters), tuple(tags), line))
            line += len(characters) + 1
        splits[split] = sentences
        text = "".join(
            f"{token} {tag}\n" for s in sentences for token, tag in (*zip(s.tokens, s.tags, strict=True), ("", ""))
        )
        sha256[split] = hashlib.sha256(text.encode("utf-8")).hexdigest()
    files = {split: f"embedded sample/{split}" for split in splits}
    return Corpus(
        path="embedded sample",
        train=splits["train"],
        dev=splits["dev"],
        test=splits["test"],
        scheme="BMES",
        files=files,
        sha256=sha256,
        embedded_sample=True,
    )
