"""The report of a run, as one HTML page.

`render_report` turns its figures (`result.json`), its epochs (`history.jsonl`), its settings (`config.json`) and what
its best model gets wrong (`evaluation.json`) into text that opens on a cluster's login node, in a mail and in ten
years: no font, no image and no script from elsewhere; its own script filters the wrong sentences and does nothing else.

A pure function from dictionaries to text, without clock: the same run gives the same bytes. Whatever a run did not
measure (a test score in a throughput run, a confusion matrix) is left out. Text and names from a corpus are escaped.

    page = render_report(result, history, config, evaluation, command="python jobs/train_1p.py --data-dir data")
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ray_bilstm.highlight import head, packaged
from ray_bilstm.report_charts import draw_curves
from ray_bilstm.report_errors import draw_errors, draw_mistakes, interval
from ray_bilstm.report_values import (
    KINDS,
    MISSING,
    SPLITS,
    anchor,
    by_type,
    command_block,
    corpus_splits,
    dig,
    duration,
    finite,
    matrix,
    number,
    prf,
    scored_split,
    section,
    setting,
    table,
    text,
    without_folders,
)

SCORES = ("", "Precision", "Recall", "F1")
SECONDS = {"startup": "Startup 启动", "data": "Data 数据", "train": "Train 训练", "evaluation": "Evaluation 评估"}
MOST_WARNINGS = 100
NOTICE = """<p class="notice"><strong>Sample corpus.</strong> These figures are of the small corpus built into
ray_bilstm, not of ResumeNER: they show that the run works, not how good the model is. Name a corpus with
<code>--data-dir</code>.<br><span lang="zh">以下数字来自内置的小型示例语料，并非 ResumeNER 的成绩；
请用 <code>--data-dir</code> 指定语料。</span></p>"""


def render_report(
    result: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
    *,
    command: str = "",
) -> str:
    """The whole HTML page of one run; what the run did not measure is left out, and folders of its machine are."""
    evaluation = evaluation or {}
    drawn = [
        ("Curves", "训练曲线", draw_curves(result, history)),
        ("Scores", "成绩", _scores(result)),
        ("Entity types", "各类实体", _types(result, evaluation)),
        ("Mistakes", "错误分析", draw_mistakes(evaluation, result)),
        ("Confusion", "混淆矩阵", _confusion(result)),
        ("Time", "用时", _time(result)),
        ("Corpus", "语料", _corpus(result)),
        ("Warnings", "警告", _warnings(result)),
        ("Run and versions", "环境与版本", _run(result)),
        ("Configuration", "配置", _configuration(config)),
        ("Reproduce", "复现", command_block(command) if command else ""),
        ("Wrong sentences", "出错的句子", draw_errors(evaluation)),
    ]
    name, titles = text(result.get("name") or "run"), [title for title, _, body in drawn if body]
    script = packaged("report.js") if evaluation.get("errors") else ""
    page = f"""{head(name, style=packaged("report.css"), script=script)}
<body>
<header>
<p class="over">ray_bilstm · Training report <span lang="zh">训练报告</span></p>
<h1>{name}</h1>
{NOTICE if dig(result, "corpus", "embedded_sample") else ""}
{_headline(result)}
<nav>{" ".join(f'<a href="#{anchor(title)}">{title}</a>' for title in titles)}</nav>
</header>
<main>
{"".join(section(*parts) for parts in drawn)}</main>
{f"<script>{script}</script>" if script else ""}
</body>
</html>
"""
    return without_folders(page, config, dig(result, "corpus", "path"))


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
        ("Throughput", "吞吐", number(rate, ",.0f" if (rate or 0.0) >= 100 else ",.1f"), "sentences/s 句/秒"),
        ("Device", "设备", setting(result.get("device")), result.get("device_name") or ""),
        ("Workers", "进程数", setting(result.get("num_workers")), result.get("backend") or ""),
        ("AMP", "混合精度", setting(result.get("amp_opt_level")), result.get("dtype") or ""),
        ("Best epoch", "最佳轮次", setting(result.get("best_epoch")), span),
        ("Total time", "总用时", duration(dig(result, "seconds", "total")), ""),
    ]
    body = "\n".join(
        f'<div><dt>{label}<span class="zh" lang="zh">{zh}</span></dt><dd class="figure">{text(figure)}</dd>'
        f'<dd class="note">{text(note)}</dd></div>'
        for label, zh, figure, note in tiles
    )
    return f'<dl class="tiles">\n{body}\n</dl>'


def _scores(result: Mapping[str, Any]) -> str:
    splits = [split for split in SPLITS if result.get(split)]
    tables = [
        f"<div><h3>{label}</h3>\n"
        + table(SCORES, ([SPLITS[split], *prf(dig(result, split, kind))] for split in splits))
        + "</div>"
        for kind, label in KINDS.items()
    ]
    note = "" if "test" in splits else '\n<p class="soft">This run made no test score.</p>'
    return f'<div class="pair">{"".join(tables)}</div>{note}' if splits else ""


def _types(result: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    split = scored_split(result)
    types = dig(result, split, "per_type")
    if not types:
        return "" if types is None else f'<p class="soft">No entities in {split}.</p>'
    found = dig(evaluation, "per_type") if evaluation.get("split") == split else None
    rows = [
        [text(name), *scores, *([interval(found.get(name))] if found else []), support]
        for name, *scores, support in by_type(types)
    ]
    return table((SPLITS[split], *SCORES[1:], *(["95 % of F1"] if found else []), "Support"), rows)


def _confusion(result: Mapping[str, Any]) -> str:
    split = scored_split(result)
    tags, counts = dig(result, split, "confusion", "tags"), dig(result, split, "confusion", "matrix")
    if not tags or not counts:
        return ""
    names = [text(tag) for tag in tags]
    mistakes = [
        (count, count / sum(row), gold, guess)
        for gold, row in zip(names, counts, strict=True)
        for guess, count in zip(names, row, strict=True)
        if count and guess != gold
    ]
    worst = sorted(mistakes, key=lambda one: -one[0])[:8]
    listed = ([f"{gold} → {guess}", f"{count:,}", f"{share:.2%}"] for count, share, gold, guess in worst)
    often = table(("Gold → predicted", "Characters 字数", "Of gold 占比"), listed)
    return (
        f'<p class="soft">Tags of the {split} split: gold by row, predicted by column, counts as text, empty for none. '
        "The shade is the share of the row on a logarithmic scale: blue where right, orange where wrong. "
        '<span lang="zh">行为标注，列为预测；颜色为该行占比（对数）。</span></p>\n'
        + matrix(names, counts)
        + (f'<h3>Most frequent confusions <small lang="zh">最常见的混淆</small></h3>\n{often}' if worst else "")
    )


def _time(result: Mapping[str, Any]) -> str:
    seconds = {key: finite(value) or 0.0 for key, value in (result.get("seconds") or {}).items()}
    named = sum(value for key, value in seconds.items() if key != "total")
    total = max(seconds.pop("total", 0.0), named)
    if not total:
        return ""
    colours = dict(zip(seconds, "abcd", strict=False))
    parts = [(SECONDS.get(key, text(key)), colours.get(key, "e"), value) for key, value in seconds.items()]
    parts += [("Other 其他", "e", total - named)] if total - named > 0.001 * total else []
    bar = "".join(
        f'<span class="{colour}" style="flex:{value:.4f}" title="{name}: {duration(value)}"></span>'
        for name, colour, value in parts
        if value
    )
    rows = [
        [f'<span class="key {colour}"></span>{name}', duration(value), f"{value / total:.1%}"]
        for name, colour, value in parts
    ]
    rows.append(["Total 合计", duration(total), ""])
    return f'<div class="bar" aria-hidden="true">{bar}</div>\n' + table(("", "Time 用时", "Share 占比"), rows)


def _corpus(result: Mapping[str, Any]) -> str:
    sample, path = dig(result, "corpus", "embedded_sample"), dig(result, "corpus", "path")
    rows = [[text(split), count, f"<code>{text(digest)}</code>"] for split, count, digest in corpus_splits(result)]
    where = (
        "<p>The sample built into ray_bilstm 内置示例语料</p>"
        if sample
        else f"<p><code>{text(setting(path))}</code></p>"
    )
    return f"{where}\n{table(('Split 划分', 'Sentences 句数', 'SHA-256'), rows)}" if rows or path else ""


def _warnings(result: Mapping[str, Any]) -> str:
    warnings = list(result.get("warnings") or [])
    items = "\n".join(f"<li>{text(warning)}</li>" for warning in warnings[:MOST_WARNINGS])
    more = f'\n<p class="soft">and {len(warnings) - MOST_WARNINGS:,} more</p>' if len(warnings) > MOST_WARNINGS else ""
    return f"<ul>\n{items}\n</ul>{more}" if items else '<p class="soft">None <span lang="zh">无</span></p>'


def _run(result: Mapping[str, Any]) -> str:
    memory = finite(result.get("peak_memory_bytes"))
    facts = {
        "Seed 随机种子": setting(result.get("seed")),
        "Head 输出层": setting(result.get("head")),
        "Sentences per step 批大小": setting(result.get("batch_size")),
        "Parameters 参数量": number(result.get("parameters")),
        "Peak memory 内存峰值": f"{memory / 2**20:,.0f} MiB" if memory else MISSING,
    }
    return f'<div class="pair">\n{_fields(facts)}\n{_fields(result.get("versions") or {})}\n</div>'


def _fields(fields: Mapping[str, Any]) -> str:
    return table(
        (), ([text(key), f"<code>{text(setting(value))}</code>"] for key, value in fields.items()), kind="plain"
    )


def _configuration(config: Mapping[str, Any]) -> str:
    loose = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    parts = [("settings", loose)] if loose else []
    parts += [(key, dict(value)) for key, value in config.items() if isinstance(value, Mapping)]
    blocks = "\n".join(f"<div><h3>{text(name)}</h3>\n{_fields(fields)}</div>" for name, fields in parts)
    return f'<div class="pair">\n{blocks}\n</div>' if blocks else ""
