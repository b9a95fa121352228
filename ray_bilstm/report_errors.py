"""What a model gets wrong, for its report: kinds of mistakes, types taken for one another, the sentences themselves.

All of it from evaluation.json (`review.py`). A sentence has two lines, gold above predicted, entities in the colour of
their type and with its name behind them, wrong ones framed and with a ×. The filters are for a browser with JavaScript
(`report.js`); without it, and on paper, everything is there.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ray_bilstm.highlight import hue, marked
from ray_bilstm.mistakes import BOTH, BOUNDARY, KINDS, MISSED, SPURIOUS, TYPE
from ray_bilstm.report_values import MISSING, dig, finite, matrix, number, prf, setting, table, text

TOLD = {  # what a kind of mistake is, and its Chinese name
    TYPE: ("same place, another type", "类型错"),
    BOUNDARY: ("overlap, same type", "边界错"),
    BOTH: ("overlap, another type", "边界与类型皆错"),
    MISSED: ("no predicted entity overlaps the gold one", "漏标"),
    SPURIOUS: ("no gold entity overlaps the predicted one", "多标"),
}
MOST_PLAIN = 160
"""Characters or words without an entity that are shown in full."""

Record = Mapping[str, Any]


class Marked(NamedTuple):
    """An entity on one of the two lines of a sentence."""

    start: int
    end: int
    type: str
    score: float | None
    wrong: bool


def interval(scores: Any) -> str:
    """The 95 % interval of F1, of scores that have one."""
    low, high = (finite(dig(scores, end)) for end in ("low95", "high95"))
    return MISSING if low is None or high is None else f"{low:.4f} to {high:.4f}"


def draw_mistakes(evaluation: Record, result: Record) -> str:
    """Whose figures these are, and the mistakes by kind, by type, and by whether train has the entity."""
    if evaluation.get("failed"):
        return f'<p class="soft">Not looked at: <code>{text(evaluation["failed"])}</code></p>'
    if not evaluation:
        return ""
    kinds = (
        [
            f'{kind} <span class="zh" lang="zh">{TOLD[kind][1]}</span><br><span class="soft">{TOLD[kind][0]}</span>',
            *(number(evaluation["mistakes"][side][kind]) for side in ("gold", "predicted")),
        ]
        for kind in KINDS
    )
    parts = [
        _whose(evaluation, result),
        table(("Mistake 错误", "Of gold 标注", "Of predicted 预测"), kinds),
        _seen(evaluation.get("seen") or {}),
        '<h3>Types <small lang="zh">类型混淆</small></h3>',
        '<p class="soft">Each gold entity (row) by the type of the predicted one that overlaps it most (column); the'
        " last column is missed, the last row spurious.</p>",
        matrix([text(name) for name in evaluation["types"]["types"]], evaluation["types"]["matrix"]),
    ]
    return "\n".join(part for part in parts if part)


def _whose(evaluation: Record, result: Record) -> str:
    split, read, whole = (evaluation[key] for key in ("split", "sentences", "sentences_of_split"))
    which = f"the first {read:,} of {whole:,} sentences" if read < whole else f"the {read:,} sentences"
    run = ", ".join(text(setting(result.get(key))) for key in ("device", "amp_opt_level", "dtype"))
    entity = evaluation["entity"]
    return (
        f"<p>What <code>best/</code> makes of {which} of {text(split)}, read once more on {text(evaluation['device'])}"
        f" in {text(evaluation['dtype'])} after training: entity F1 <strong>{prf(entity)[2]}</strong>, 95 % interval"
        f" {interval(entity)} (bootstrap over sentences); {number(evaluation['sentences_wrong'])} sentences went"
        ' wrong.</p>\n<p class="soft">These figures, all intervals and the sentences below are of that reading.'
        f" Scores, entity types and confusion are the run's own ({run}): at O0 on a CPU they are the same"
        f"{', but of all sentences' if read < whole else ''}, elsewhere they may differ in the last digits.</p>"
    )


def _seen(seen: Record) -> str:
    names = {"seen": "in train 训练集中有", "unseen": "not in train 训练集中无"}
    rows = [[names[name], *prf(seen[name]), number(seen[name]["support"])] for name in names if name in seen]
    return table(("Entities 实体", "Precision", "Recall", "F1", "Support"), rows) if rows else ""


# ---- the sentences ----


def draw_errors(evaluation: Record) -> str:
    """The wrong sentences, worst first, behind filters that a browser without JavaScript does not show."""
    errors, wrong = evaluation.get("errors"), evaluation.get("sentences_wrong") or 0
    if not errors:
        return "" if errors is None else "<p>None went wrong.</p>"
    types = list(evaluation["types"]["types"])[:-1]
    of = f"The worst {len(errors):,} of {wrong:,}" if wrong > len(errors) else f"All {wrong:,}"
    listed = "\n".join(_error(error, types) for error in errors)
    return (
        f'<p class="soft">{of}, most mistakes first. × marks what is wrong; the number behind a predicted entity is its'
        ' probability. <span lang="zh">按错误数从多到少；× 为错误实体，数字为预测概率。</span></p>\n'
        f'{_filters(errors, types)}\n<ol class="errors">\n{listed}\n</ol>'
    )


def _filters(errors: Sequence[Record], types: Sequence[str]) -> str:
    """Each choice with the number of sentences that it leaves."""
    kinds: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for error in errors:
        kinds.update({mistake["kind"] for mistake in error["mistakes"]})
        named.update({type for mistake in error["mistakes"] for type in _types(mistake)})
    first = ((kind, f"{kind} {TOLD[kind][1]}", kinds[kind]) for kind in KINDS)
    second = ((str(place), text(type), named[type]) for place, type in enumerate(types))
    return (
        '<div id="filters" hidden>\n'
        + _select("Mistake 错误", first)
        + _select("Entity type 类型", second)
        + '<output aria-live="polite"></output></div>'
    )


def _select(label: str, choices: Iterable[tuple[str, str, int]]) -> str:
    options = "".join(f'<option value="{value}">{name} ({count:,})</option>' for value, name, count in choices if count)
    return f'<label>{label} <select><option value="">all 全部</option>{options}</select></label>\n'


def _error(error: Record, types: Sequence[str]) -> str:
    mistakes = error["mistakes"]

    def mark(inside: str, entity: Marked) -> str:
        return _mark(inside, entity, types)

    lines = [
        f'<dt>{side} <span lang="zh">{chinese}</span></dt>'
        f"<dd>{marked(error['tokens'], _line(error, side), mark, most=MOST_PLAIN)}</dd>"
        for side, chinese in (("gold", "标注"), ("predicted", "预测"))
    ]
    many = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "1 mistake"
    told = "\n".join(_told(mistake, types) for mistake in mistakes)
    return f'<li><p class="soft">line {error["line"]} · {many}</p>\n<dl>{"".join(lines)}</dl>\n<ul>\n{told}\n</ul></li>'


def _line(error: Record, side: str) -> list[Marked]:
    """The entities of one line, in order; one that is part of several mistakes stands there once."""
    right = [(one, False) for one in error["correct"]]
    wrong = [(mistake[side], True) for mistake in error["mistakes"] if mistake[side]]
    score = "score" if side == "predicted" else ""
    return sorted({Marked(one["start"], one["end"], one["type"], one.get(score), bad) for one, bad in right + wrong})


def _mark(inside: str, entity: Marked, types: Sequence[str]) -> str:
    sign, score = "× " if entity.wrong else "", "" if entity.score is None else f" {entity.score:.2f}"
    kind, place = ' class="wrong"' if entity.wrong else "", types.index(entity.type)
    name = f"<small>{sign}{text(entity.type)}{score}</small>"
    return f'<mark{kind} style="--hue:{hue(place, len(types))}">{text(inside)}{name}</mark>'


def _types(mistake: Record) -> Iterator[str]:
    return (mistake[side]["type"] for side in ("gold", "predicted") if mistake[side])


def _told(mistake: Record, types: Sequence[str]) -> str:
    sides = []
    for side in ("gold", "predicted"):
        if one := mistake[side]:
            score = finite(one.get("score"))
            sides.append(f"{text(one['text'])} {text(one['type'])}{'' if score is None else f' {score:.2f}'}")
    places = " ".join(str(place) for place in sorted({types.index(type) for type in _types(mistake)}))
    kind = mistake["kind"]
    return f'<li data-kind="{kind}" data-types="{places}"><strong>{kind}</strong> {" → ".join(sides)}</li>'
