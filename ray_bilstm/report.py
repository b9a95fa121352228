"""The report of a run, as one HTML page.

`render_report` turns its figures (`result.json`), its epochs (`history.jsonl`) and its settings (`config.json`) into
text that opens on a cluster's login node, in a mail and in ten years: no script, no font and no image from elsewhere.

A pure function from dictionaries to text, without clock: the same run gives the same bytes. Whatever a run did not
measure (a test score in a throughput run, a confusion matrix) is left out. Names from a corpus are escaped.

    page = render_report(result, history, config, command="python jobs/train_1p.py --data-dir data")
"""

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

MISSING = "–"
PARTS = ("precision", "recall", "f1")
SCORES = ("", "Precision", "Recall", "F1")
KINDS = {"entity": "entity: strict, micro-averaged", "token": "token: weighted by support, O included"}
SPLITS = {"dev": "Dev 验证集", "test": "Test 测试集"}
SECONDS = {"startup": "Startup 启动", "data": "Data 数据", "train": "Train 训练", "evaluation": "Evaluation 评估"}
CURVES = (  # title, subtitle, unit, axis from zero, (label, colour, keys in a line of the history) of each line
    (
        "Training loss",
        "训练损失",
        "negative log-likelihood a sentence, in nats",
        True,
        [("train loss", "a", ["train_loss"])],
    ),
    (
        "Dev F1",
        "验证集 F1",
        "0 to 1",
        False,
        [(f"{kind} F1", on, ["dev", kind, "f1"]) for kind, on in zip(KINDS, "ab", strict=True)],
    ),
    ("Learning rate", "学习率", "at the end of the epoch", True, [("learning rate", "a", ["learning_rate"])]),
    ("Gradient norm", "梯度范数", "mean over steps", True, [("gradient norm", "a", ["gradient_norm"])]),
)
MOST_WARNINGS = 100
LEFT, RIGHT, TOP, BOTTOM = 48.0, 352.0, 18.0, 172.0  # the plot inside a chart of 360 by 206

NOTICE = """<p class="notice"><strong>Sample corpus.</strong> These figures are of the small corpus built into
ray_bilstm, not of ResumeNER: they show that the run works, not how good the model is. Name a corpus with
<code>--data-dir</code>.<br><span lang="zh">以下数字来自内置的小型示例语料，并非 ResumeNER 的成绩；
请用 <code>--data-dir</code> 指定语料。</span></p>"""


def render_report(
    result: Mapping[str, Any], history: Sequence[Mapping[str, Any]], config: Mapping[str, Any], *, command: str = ""
) -> str:
    """The whole HTML page of one run; what the run did not measure is left out."""
    name = _text(result.get("name") or "run")
    sections = [
        _section("Curves", "训练曲线", _curves(result, history)),
        _section("Scores", "成绩", _scores(result)),
        _section("Entity types", "各类实体", _types(result)),
        _section("Confusion", "混淆矩阵", _confusion(result)),
        _section("Time", "用时", _time(result)),
        _section("Corpus", "语料", _corpus(result)),
        _section("Warnings", "警告", _warnings(result)),
        _section("Run and versions", "环境与版本", _run(result)),
        _section("Configuration", "配置", _configuration(config)),
        _section("Reproduce", "复现", f"<pre><code>{_text(command)}</code></pre>" if command else ""),
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{name} · ray_bilstm</title>
<style>{resources.files("ray_bilstm").joinpath("report.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<p class="over">ray_bilstm · Training report <span lang="zh">训练报告</span></p>
<h1>{name}</h1>
{NOTICE if dig(result, "corpus", "embedded_sample") else ""}
{_headline(result)}
</header>
<main>
{"".join(sections)}</main>
</body>
</html>
"""


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


def _text(value: Any) -> str:
    return html.escape(clean(value))


def finite(value: Any) -> float | None:
    """The value as a float, None where it is no finite number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _number(value: Any, form: str = ",.0f") -> str:
    number = finite(value)
    return MISSING if number is None else format(number, form)


def prf(scores: Any) -> list[str]:
    return [_number(dig(scores, part), ".4f") for part in PARTS]


def _duration(value: Any) -> str:
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


# ---- pieces of the page ----


def _section(title: str, chinese: str, body: str) -> str:
    heading = f'<h2>{title} <small lang="zh">{chinese}</small></h2>'
    return f'<section id="{title.lower().replace(" ", "-")}">\n{heading}\n{body}\n</section>\n' if body else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "numbers") -> str:
    """Cells are HTML already; the first of a row is its heading."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="scroll"><table class="{kind}">{thead}<tbody>\n{lines}\n</tbody></table></div>'


def _headline(result: Mapping[str, Any]) -> str:
    split, rate, planned = scored_split(result), finite(result.get("sentences_per_second")), result.get("train_epochs")
    run = planned if result.get("epochs_run") is None else result["epochs_run"]
    span = "" if run is None else f"of {run} run" + (f", {planned} planned" if planned not in (None, run) else "")
    measured = (("entity", "实体"), ("token", "标签")) if result.get(split) else ()
    tiles = [  # label, subtitle, figure, note
        (f"{split.title()} {kind} F1", f"{zh} F1", prf(dig(result, split, kind))[2], KINDS[kind].split(": ")[1])
        for kind, zh in measured
    ]
    tiles += [
        ("Throughput", "吞吐", _number(rate, ",.0f" if (rate or 0.0) >= 100 else ",.1f"), "sentences/s 句/秒"),
        ("Device", "设备", setting(result.get("device")), result.get("device_name") or ""),
        ("Workers", "进程数", setting(result.get("num_workers")), result.get("backend") or ""),
        ("AMP", "混合精度", setting(result.get("amp_opt_level")), result.get("dtype") or ""),
        ("Best epoch", "最佳轮次", setting(result.get("best_epoch")), span),
        ("Total time", "总用时", _duration(dig(result, "seconds", "total")), ""),
    ]
    body = "\n".join(
        f'<div><dt>{label}<span class="zh" lang="zh">{zh}</span></dt><dd class="figure">{_text(figure)}</dd>'
        f'<dd class="note">{_text(note)}</dd></div>'
        for label, zh, figure, note in tiles
    )
    return f'<dl class="tiles">\n{body}\n</dl>'


def _curves(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    improved = [line.get("epoch") for line in history if line.get("best")]
    best = finite(result.get("best_epoch") or (improved[-1] if improved else None))
    figures = []
    for title, chinese, unit, from_zero, lines in CURVES:
        series = []
        for label, colour, keys in lines:
            pairs = [(finite(line.get("epoch", at)), finite(dig(line, *keys))) for at, line in enumerate(history, 1)]
            series.append((label, colour, [(x, y) for x, y in pairs if x is not None and y is not None]))
        if not any(points for _, _, points in series):
            continue
        keys = [f'<span class="key {colour}"></span>{label} &ensp;' for label, colour, _ in series if len(series) > 1]
        figures.append(
            f'<figure><figcaption>{title}<span class="zh" lang="zh">{chinese}</span>'
            f"<small>{''.join(keys)}{unit}</small></figcaption>\n"
            f'<svg viewBox="0 0 360 206" role="img" aria-label="{title} by epoch">\n'
            f"{_chart(series, best, from_zero)}\n</svg></figure>"
        )
    drawn = "\n".join(figures)
    return f'<div class="curves">\n{drawn}\n</div>' if drawn else '<p class="soft">No epochs recorded.</p>'


def _chart(series: Sequence[tuple[str, str, list[tuple[float, float]]]], best: float | None, from_zero: bool) -> str:
    """Axes and lines over epochs: `series` are (label, colour, points). A hover on a point tells its value."""
    every = [point for _, _, points in series for point in points]
    low_x, high_x = min(x for x, _ in every) - 0.5, max(x for x, _ in every) + 0.5
    values = [y for _, y in every] + [0.0] * from_zero
    ticks_x, step_x = ticks(low_x, high_x, 6, least=1.0)
    ticks_y, step_y = ticks(min(values), max(values), 4, outward=True)

    def at(x: float, y: float) -> tuple[float, float]:
        share_y = (y - ticks_y[0]) / (ticks_y[-1] - ticks_y[0])
        return LEFT + (RIGHT - LEFT) * (x - low_x) / (high_x - low_x), BOTTOM - (BOTTOM - TOP) * share_y

    parts = [f'<text x="{RIGHT}" y="201" text-anchor="end">epoch 轮次</text>']
    for tick in ticks_y:
        _, y = at(0, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick_text(tick, step_y)}</text>')
    for tick in ticks_x:
        parts.append(f'<text x="{at(tick, 0)[0]:.1f}" y="187" text-anchor="middle">{tick_text(tick, step_x)}</text>')
    if best is not None and low_x < best < high_x:
        x, _ = at(best, 0)
        anchor = "end" if x > (LEFT + RIGHT) / 2 else "start"
        parts.append(f'<line class="best" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP - 7}" text-anchor="{anchor}">best: epoch {best:g}</text>')
    for label, colour, points in series:
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in points)
        parts.append(f'<polyline class="{colour}" points="{path}"/>')
        for epoch, value in points:
            (x, y), note = at(epoch, value), " (best epoch)" if epoch == best else ""
            shape, radius = ("ring", 3.2) if epoch == best else ("dot", 2.0 if len(points) <= 60 else 0.9)
            parts.append(
                f'<circle class="{shape} {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
                f"<title>epoch {epoch:g}: {label} {value:.4g}{note}</title></circle>"
            )
    return "\n".join(parts)


def ticks(
    low: float, high: float, about: int, *, least: float = 0.0, outward: bool = False
) -> tuple[list[float], float]:
    """Round values between low and high, about so many; `outward` takes in the ones just beyond, for an axis's ends."""
    if high - low <= max(1e-4 * max(abs(low), abs(high)), 1e-12):
        high = low + (abs(low) * 0.1 or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(least, next(power * times for times in (1, 2, 5, 10) if power * times >= raw * 0.999))
    below, above = (math.floor, math.ceil) if outward else (math.ceil, math.floor)
    return [step * at for at in range(below(low / step + 1e-9), above(high / step - 1e-9) + 1)], step


def tick_text(value: float, step: float) -> str:
    if value and (step < 1e-5 or abs(value) >= 1e6):
        return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.3g}")
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" if value else "0"


def _scores(result: Mapping[str, Any]) -> str:
    splits = [split for split in SPLITS if result.get(split)]
    tables = [
        f"<div><h3>{label}</h3>\n"
        + _table(SCORES, ([SPLITS[split], *prf(dig(result, split, kind))] for split in splits))
        + "</div>"
        for kind, label in KINDS.items()
    ]
    note = "" if "test" in splits else '\n<p class="soft">This run made no test score.</p>'
    return f'<div class="pair">{"".join(tables)}</div>{note}' if splits else ""


def _types(result: Mapping[str, Any]) -> str:
    split = scored_split(result)
    types = dig(result, split, "per_type")
    if not types:
        return "" if types is None else f'<p class="soft">No entities in {split}.</p>'
    return _table((SPLITS[split], *SCORES[1:], "Support"), ([_text(name), *rest] for name, *rest in by_type(types)))


def by_type(types: Mapping[str, Any]) -> list[list[str]]:
    return [[name, *prf(types[name]), _number(dig(types[name], "support"))] for name in sorted(types)]


def _confusion(result: Mapping[str, Any]) -> str:
    split = scored_split(result)
    tags, matrix = dig(result, split, "confusion", "tags"), dig(result, split, "confusion", "matrix")
    if not tags or not matrix:
        return ""
    names, rows = [_text(tag) for tag in tags], []
    mistakes: list[tuple[int, float, str, str]] = []
    for gold, counts in zip(names, matrix, strict=True):
        row, total = "", sum(counts) or 1
        for guess, count in zip(names, counts, strict=True):
            kind, share = "hit" if guess == gold else "miss", count / total
            if count:
                shade = max(0.1, 0.55 * (1 + math.log10(share) / 4))  # four decades of the row's share
                told = f"gold {gold}, predicted {guess}: {count:,} ({share:.2%})"
                row += f'<td class="{kind}" style="--v:{shade:.2f}" title="{told}">{count}</td>'
            else:
                row += '<td class="zero"></td>' if guess == gold else "<td></td>"
            if count and guess != gold:
                mistakes.append((count, share, gold, guess))
        rows.append(f'<tr><th scope="row">{gold}</th>{row}</tr>\n')
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    worst = sorted(mistakes, key=lambda one: -one[0])[:8]
    listed = ([f"{gold} → {guess}", f"{count:,}", f"{share:.2%}"] for count, share, gold, guess in worst)
    often = _table(("Gold → predicted", "Characters 字数", "Of gold 占比"), listed)
    return (
        f'<p class="soft">Tags of the {split} split: gold by row, predicted by column, counts as text, empty for none. '
        "The shade is the share of the row on a logarithmic scale: blue where right, orange where wrong. "
        '<span lang="zh">行为标注，列为预测；颜色为该行占比（对数）。</span></p>\n'
        '<div class="matrix" tabindex="0"><table><thead><tr><th>gold&nbsp;↓ pred.&nbsp;→</th>'
        f"{head}</tr></thead><tbody>\n{''.join(rows)}</tbody></table></div>\n"
        + (f'<h3>Most frequent confusions <small lang="zh">最常见的混淆</small></h3>\n{often}' if worst else "")
    )


def _time(result: Mapping[str, Any]) -> str:
    seconds = {key: finite(value) or 0.0 for key, value in (result.get("seconds") or {}).items()}
    named = sum(value for key, value in seconds.items() if key != "total")
    total = max(seconds.pop("total", 0.0), named)
    if not total:
        return ""
    colours = dict(zip(seconds, "abcd", strict=False))
    parts = [(SECONDS.get(key, _text(key)), colours.get(key, "e"), value) for key, value in seconds.items()]
    parts += [("Other 其他", "e", total - named)] if total - named > 0.001 * total else []
    bar = "".join(
        f'<span class="{colour}" style="flex:{value:.4f}" title="{name}: {_duration(value)}"></span>'
        for name, colour, value in parts
        if value
    )
    rows = [
        [f'<span class="key {colour}"></span>{name}', _duration(value), f"{value / total:.1%}"]
        for name, colour, value in parts
    ]
    rows.append(["Total 合计", _duration(total), ""])
    return f'<div class="bar" aria-hidden="true">{bar}</div>\n' + _table(("", "Time 用时", "Share 占比"), rows)


def corpus_splits(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, sentences and checksum of each split; a checksum is filed under `train` or its file, `train.char.bmes`."""
    counts, sums = (dig(result, "corpus", key) or {} for key in ("sentences", "sha256"))
    digests = {str(key).split(".")[0]: str(value or "") for key, value in sums.items()}
    return [(str(split), _number(count), digests.get(str(split), "")[:12]) for split, count in counts.items()]


def _corpus(result: Mapping[str, Any]) -> str:
    sample, path = dig(result, "corpus", "embedded_sample"), dig(result, "corpus", "path")
    rows = [[_text(split), count, f"<code>{_text(digest)}</code>"] for split, count, digest in corpus_splits(result)]
    where = (
        "<p>The sample built into ray_bilstm 内置示例语料</p>"
        if sample
        else f"<p><code>{_text(setting(path))}</code></p>"
    )
    return f"{where}\n{_table(('Split 划分', 'Sentences 句数', 'SHA-256'), rows)}" if rows or path else ""


def _warnings(result: Mapping[str, Any]) -> str:
    warnings = list(result.get("warnings") or [])
    items = "\n".join(f"<li>{_text(warning)}</li>" for warning in warnings[:MOST_WARNINGS])
    more = f'\n<p class="soft">and {len(warnings) - MOST_WARNINGS:,} more</p>' if len(warnings) > MOST_WARNINGS else ""
    return f"<ul>\n{items}\n</ul>{more}" if items else '<p class="soft">None <span lang="zh">无</span></p>'


def _run(result: Mapping[str, Any]) -> str:
    memory = finite(result.get("peak_memory_bytes"))
    facts = {
        "Seed 随机种子": setting(result.get("seed")),
        "Head 输出层": setting(result.get("head")),
        "Sentences per step 批大小": setting(result.get("batch_size")),
        "Parameters 参数量": _number(result.get("parameters")),
        "Peak memory 内存峰值": f"{memory / 2**20:,.0f} MiB" if memory else MISSING,
    }
    return f'<div class="pair">\n{_fields(facts)}\n{_fields(result.get("versions") or {})}\n</div>'


def _fields(fields: Mapping[str, Any]) -> str:
    return _table(
        (), ([_text(key), f"<code>{_text(setting(value))}</code>"] for key, value in fields.items()), kind="plain"
    )


def _configuration(config: Mapping[str, Any]) -> str:
    loose = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    parts = [("settings", loose)] if loose else []
    parts += [(key, dict(value)) for key, value in config.items() if isinstance(value, Mapping)]
    blocks = "\n".join(f"<div><h3>{_text(name)}</h3>\n{_fields(fields)}</div>" for name, fields in parts)
    return f'<div class="pair">\n{blocks}\n</div>' if blocks else ""
