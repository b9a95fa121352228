"""What the pages of a run are made of: figures as text, tables, and what both the report and the model card say."""

import html
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

MISSING = "–"
PARTS = ("precision", "recall", "f1")
KINDS = {"entity": "entity: strict, micro-averaged", "token": "token: weighted by support, O included"}
SPLITS = {"dev": "Dev 验证集", "test": "Test 测试集"}


# ---- values as text ----


def dig(tree: Any, *keys: str) -> Any:
    """`tree[a][b]…`, or None where a step is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def scored_split(result: Mapping[str, Any]) -> str:
    """The split whose details are shown: test, or dev where the run made no test score."""
    return "test" if result.get("test") else "dev"


def clean(value: Any) -> str:
    """Text that UTF-8 can hold: a path that is not UTF-8 reaches Python with lone surrogates in it."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def text(value: Any) -> str:
    return html.escape(clean(value))


def finite(value: Any) -> float | None:
    """The value as a float, None where it is no finite number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def number(value: Any, form: str = ",.0f") -> str:
    some = finite(value)
    return MISSING if some is None else format(some, form)


def prf(scores: Any) -> list[str]:
    return [number(dig(scores, part), ".4f") for part in PARTS]


def duration(value: Any) -> str:
    seconds = finite(value)
    if seconds is None or seconds < 59.995:
        return MISSING if seconds is None else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def setting(value: Any) -> str:
    """A setting as it stands in config.json; none set reads as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def without_folders(page: str, *settings: Any) -> str:
    """`page` with paths cut short that are absolute in `settings`: a page is shown to others, whom the folders of the
    machine that trained do not concern. /home/me/data/ResumeNER reads .../ResumeNER."""
    # A URI may hold one: file:///home/me/runs, sqlite:////home/me/runs.db
    paths = [value.partition("://")[2] or value for value in _strings(settings)]
    folders = {str(PurePath(path).parent) for path in paths if path.startswith("/")}
    for folder in sorted(folders - {"/"}, key=len, reverse=True):
        page = page.replace(f"{text(folder)}/", ".../")
    return page


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _strings(part)


def by_type(types: Mapping[str, Any]) -> list[list[str]]:
    return [[name, *prf(types[name]), number(dig(types[name], "support"))] for name in sorted(types)]


def corpus_splits(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, sentences and checksum of each split; a checksum is filed under `train` or its file, `train.char.bmes`."""
    counts, sums = (dig(result, "corpus", key) or {} for key in ("sentences", "sha256"))
    digests = {str(key).split(".")[0]: str(value or "") for key, value in sums.items()}
    return [(str(split), number(count), digests.get(str(split), "")[:12]) for split, count in counts.items()]


# ---- pieces of the page ----


def anchor(title: str) -> str:
    """The id of a section."""
    return title.lower().replace(" ", "-")


def section(title: str, chinese: str, body: str) -> str:
    heading = f'<h2>{title} <small lang="zh">{chinese}</small></h2>'
    return f'<section id="{anchor(title)}">\n{heading}\n{body}\n</section>\n' if body else ""


def command_block(command: str) -> str:
    """A command, which lines break at its spaces only, not behind a hyphen of a flag."""
    return f"<pre><code>{' '.join(f'<span>{text(word)}</span>' for word in command.split(' '))}</code></pre>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "numbers") -> str:
    """Cells are HTML already; the first of a row is its heading."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="scroll"><table class="{kind}">{thead}<tbody>\n{lines}\n</tbody></table></div>'


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Gold by row, predicted by column; `names` are HTML already. The shade is the share of the row, logarithmic."""
    rows = []
    for gold, line in zip(names, counts, strict=True):
        row, total = "", sum(line) or 1
        for guess, count in zip(names, line, strict=True):
            if count:
                shade = max(0.1, 0.55 * (1 + math.log10(count / total) / 4))  # four decades of the row's share
                told = f"gold {gold}, predicted {guess}: {count:,} ({count / total:.2%})"
                kind = "hit" if guess == gold else "miss"
                row += f'<td class="{kind}" style="--v:{shade:.2f}" title="{told}">{count}</td>'
            else:
                row += '<td class="zero"></td>' if guess == gold else "<td></td>"
        rows.append(f'<tr><th scope="row">{gold}</th>{row}</tr>\n')
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    return (
        '<div class="matrix" tabindex="0"><table><thead><tr><th>gold&nbsp;↓ pred.&nbsp;→</th>'
        f"{head}</tr></thead><tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )
