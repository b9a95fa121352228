"""Texts with their entities marked in colour, as one HTML page without script, font or image from elsewhere.

Each type has a colour and its name behind the entity, with the score where the model is in doubt; copied text has
neither. Made text by text, so that it may be longer than memory; what was found in all is said at the end. Everything
from outside is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

from ray_bilstm.spelling import gap, spell

if TYPE_CHECKING:
    from ray_bilstm.predict import Entity
    from ray_bilstm.texts import Tagged

DOUBT = 0.9
"""A score below this is shown, and the mark is dashed."""

STYLE = r"""
:root { color-scheme: light dark; --paper: #fcfbf9; --ink: #1f2227; --soft: #656a73; --rule: #e3e0da;
  --fill: 90%; --full: 60%; --edge: 55%; --name: 32%; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171b; --ink: #e5e4e0; --soft: #9da2ab; --rule: #2f333a;
  --fill: 22%; --full: 45%; --edge: 48%; --name: 76%; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 52rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 17px/2 system-ui, -apple-system, "Segoe UI", Roboto, "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei",
    sans-serif; overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
h1 { margin: 0 0 1rem; font-size: 1.3rem; line-height: 1.4; }
header, footer { font-size: .86rem; color: var(--soft); }
h1, footer strong { color: var(--ink); font-weight: 650; }
header { padding-bottom: .8rem; border-bottom: 1px solid var(--rule); }
footer { padding-top: .8rem; }
ol { list-style: none; margin: 0; padding: 0; counter-reset: text; }
li { display: grid; grid-template-columns: 3.2em minmax(0, 1fr); padding: .55rem 0; white-space: pre-wrap;
  border-bottom: 1px solid var(--rule); }
li::before { counter-increment: text; content: counter(text); color: var(--soft); font-size: .72rem; line-height: 2.8; }
mark { color: var(--ink); background: hsl(var(--hue) var(--full) var(--fill)); margin: 0 1px; padding: .12em .2em;
  border: 1px solid transparent; border-radius: .25em;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
li mark::after { content: "\2060" attr(data-told); margin-left: .35em; font-size: .62em; letter-spacing: .02em;
  white-space: nowrap; color: hsl(var(--hue) 60% var(--name)); }
.doubt { border: 1px dashed hsl(var(--hue) 60% var(--edge)); }
header mark { margin-right: .4rem; white-space: nowrap; }
"""


class Place(Protocol):
    """What has a place in a text: an entity."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


def hue(number: int, count: int) -> int:
    """The colour of the type of this number among `count`, in degrees."""
    return round(20 + 360 * number / max(1, count))


def style(types: Sequence[str]) -> str:
    """How texts look, with a colour for each type: class `t0` for the first, and so on."""
    return STYLE + "".join(f".t{i} {{ --hue: {hue(i, len(types))}; }}\n" for i in range(len(types)))


def legend(types: Sequence[str]) -> str:
    """The types in their colours."""
    return " ".join(f'<mark class="t{i}">{html.escape(type)}</mark>' for i, type in enumerate(types))


def packaged(file: str) -> str:
    """The text of a file that comes with the package."""
    return resources.files("ray_bilstm").joinpath(file).read_text(encoding="utf-8")


def head(title: str, *, style: str, script: str = "", asks: bool = False) -> str:
    """The head of a page, up to its body; `title` is HTML. A browser runs `script`, whose digest the policy names, and
    nothing else, and asks no network; only the server that the page came from, where it `asks`."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    allowed = (f"; script-src 'sha256-{digest}'" if script else "") + "; connect-src 'self'" * asks
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{allowed}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title} · ray_bilstm</title>
<style>{style}</style>
</head>"""


def iter_html(tagged: Iterable[Tagged], types: Sequence[str], *, title: str) -> Iterator[str]:
    """The page, piece by piece; `types` are those that the model knows."""
    numbers = {type: number for number, type in enumerate(types)}
    yield f"""{head(html.escape(title), style=style(types))}
<body>
<header><h1>{html.escape(title)}</h1>{legend(types)}</header>
<ol>
"""

    def mark(inside: str, entity: Entity) -> str:
        return _mark(inside, entity, numbers[entity.type])

    texts, found = 0, Counter[str]()
    for (text, _), entities in tagged:
        found.update(entity.type for entity in entities)
        texts += 1
        yield f"<li><span>{marked(text, entities, mark)}</span></li>\n"
    counts = ", ".join(f"{html.escape(type)} {count:,}" for type, count in found.most_common())
    named = f": {counts}" if counts else ""
    yield f"</ol>\n<footer><strong>{found.total():,} entities</strong> in {texts:,} texts{named}</footer>\n"
    yield "</body>\n</html>\n"


def marked(
    text: str | Sequence[str], entities: Sequence[Place], mark: Callable[[str, Any], str], *, most: int | None = None
) -> str:
    """The text with what `mark` makes of each entity and its words; of more than `most` tokens without one, the ends
    alone."""
    done, before = 0, ""
    pieces = []
    for entity in entities:
        plain, inside = text[done : entity.start], text[entity.start : entity.end]
        pieces.append(_plain(before, plain, most))
        before = (plain or [before])[-1]
        pieces += [gap(before, inside[0]), mark(spell(inside), entity)]
        done, before = entity.end, inside[-1]
    return "".join([*pieces, _plain(before, text[done:], most)])


def _plain(before: str, tokens: str | Sequence[str], most: int | None) -> str:
    """Tokens outside entities, behind the one `before`."""
    if most and len(tokens) > most:
        return f"{_plain(before, tokens[: most // 2], None)} … {html.escape(spell(tokens[-(most // 2) :]))}"
    return html.escape(gap(before, tokens[0]) + spell(tokens)) if tokens else ""


def _mark(inside: str, entity: Entity, number: int) -> str:
    name, score, doubt, told = html.escape(entity.type), "", "", html.escape(entity.type)
    if entity.score is not None:
        score = f" {entity.score:.4f}"
        if entity.score < DOUBT:
            doubt, told = " doubt", f"{name} {entity.score:.0%}"
    return f'<mark class="t{number}{doubt}" title="{name}{score}" data-told="{told}">{html.escape(inside)}</mark>'
