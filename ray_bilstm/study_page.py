"""A study as one HTML page, `study.html`: which configuration is best, by how much, what failed, how to repeat it.

A pure function of the content of study.json and search.json, in the form of a run's report: no font, image or script
from elsewhere, light and dark, any width. The best is chosen by dev alone; test stands beside it and never chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_bilstm.figures import label, score_marks
from ray_bilstm.highlight import head, packaged
from ray_bilstm.report_values import (
    MISSING,
    SPLITS,
    anchor,
    command_block,
    dig,
    number,
    section,
    setting,
    table,
    text,
    without_folders,
)
from ray_bilstm.study import FINISHED

COLUMNS = ("Configuration 配置", "Finished 完成", "Mean ± sd 均值±标准差", "Min", "Max", "95 % of the mean 均值的 95 %")
LEFT, RIGHT, TOP, WIDTH = 10.0, 350.0, 6.0, 360
STYLE = """
.study { max-width: 32rem; }
.study .name { fill: var(--ink); font-size: 11px; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.study .interval { stroke: var(--s); stroke-width: 2; stroke-linecap: round; }
.study .mean { fill: var(--s); }
.study .seed { fill: var(--s); fill-opacity: .45; }
tbody th strong { color: var(--a); font-size: .82rem; }
"""

Record = Mapping[str, Any]


def render_study(study: Record, search: Record) -> str:
    """The page; `search` is the content of search.json, empty where there is none."""
    drawn = [
        ("Entity F1", "实体 F1", _plot(study)),
        ("Scores", "成绩", _scores(study)),
        ("Differences", "与最佳配置之差", _differences(study)),
        ("Not finished", "未完成的试验", _unfinished(study)),
        ("Shared settings", "共同的设置", _settings(search)),
        ("Reproduce", "复现", _command(search)),
    ]
    titles = [title for title, _, body in drawn if body]
    style = packaged("report.css") + STYLE
    page = f"""{head("Study of a search", style=style)}
<body>
<header>
<p class="over">ray_bilstm · Study of a search <span lang="zh">搜索的统计</span></p>
{_headline(study)}
<nav>{" ".join(f'<a href="#{anchor(title)}">{title}</a>' for title in titles)}</nav>
</header>
<main>
{"".join(section(*parts) for parts in drawn)}</main>
</body>
</html>
"""
    return without_folders(page, search)


def _headline(study: Record) -> str:
    trials = study["trials"]
    finished = sum(trial["status"] == FINISHED for trial in trials)
    name, found, kept = "No trial has finished", {}, ""
    if study["best"] is not None:
        found = study["configurations"][study["best"]]
        name = text(label(found["config"]))
        kept = f"""<p>Best by mean dev entity F1, of those with the most finished seeds. Its model with the best
dev entity F1: <code>{text(study["best_trial"])}</code>.
<span lang="zh">在完成种子数最多的配置中，按 dev 实体 F1 的均值选出；test 不参与选择。</span></p>"""
    tiles = [
        *((f"{split.title()} entity F1", *_mean(dig(found, split, "entity_f1"))) for split in SPLITS),
        ("Configurations 配置", str(len(study["configurations"])), ""),
        ("Trials 试验", str(len(trials)), f"{finished} finished 完成"),
    ]
    body = "\n".join(
        f'<div><dt>{title}</dt><dd class="figure">{figure}</dd><dd class="note">{note}</dd></div>'
        for title, figure, note in tiles
    )
    return f'<h1>{name}</h1>\n{kept}\n<dl class="tiles">\n{body}\n</dl>'


def _mean(found: Any) -> tuple[str, str]:
    deviation = dig(found, "sd")
    return number(dig(found, "mean"), ".4f"), "" if deviation is None else f"± {deviation:.4f} over seeds"


def _scores(study: Record) -> str:
    parts = []
    for split, title in SPLITS.items():
        for kind in ("entity", "token"):
            rows = [_row(study, index, split, kind) for index in range(len(study["configurations"]))]
            parts.append(f"<h3>{title}, {kind} F1</h3>\n{table(COLUMNS, rows)}")
    note = "The interval is the middle 95 % of means of resampled seeds; with few seeds it is too narrow."
    return "\n".join([*parts, f'<p class="soft">{note}</p>'])


def _row(study: Record, index: int, split: str, kind: str) -> list[str]:
    configuration = study["configurations"][index]
    found = configuration[split][f"{kind}_f1"]
    deviation = "" if found["sd"] is None else f" ± {found['sd']:.4f}"
    interval = MISSING if found["low95"] is None else f"{found['low95']:.4f} to {found['high95']:.4f}"
    return [
        text(label(configuration["config"])) + (" <strong>best 最佳</strong>" if index == study["best"] else ""),
        f"{len(configuration['seeds'])} of {sum(configuration['statuses'].values())}",
        number(found["mean"], ".4f") + deviation,
        *(number(found[part], ".4f") for part in ("min", "max")),
        interval,
    ]


def _differences(study: Record) -> str:
    compared = [one for one in study["comparisons"] if one["seeds"]]
    if not compared:
        return ""
    rows = [
        [
            text(label(study["configurations"][one["second"]]["config"])),
            str(len(one["seeds"])),
            *(
                cell
                for split in SPLITS
                for cell in (f"{one[split]['entity_f1']['difference']:+.4f}", f"{one[split]['entity_f1']['p']:.3f}")
            ),
        ]
        for one in compared
    ]
    fewest = 2.0 ** (1 - min(len(one["seeds"]) for one in compared))
    return (
        '<p class="soft">Mean difference in entity F1 of the best, less each other, over the seeds that both have. p: '
        f"paired sign-flip test, two-sided, one comparison at a time; with so few seeds at least {fewest:.3g}.</p>\n"
        + table(("Best, less 最佳减去", "Common seeds 共同种子", "Dev", "p", "Test", "p"), rows)
    )


def _unfinished(study: Record) -> str:
    items = "\n".join(
        f"<li>{text(label(trial['config']))}, seed {trial['seed']}: <strong>{text(trial['status'])}</strong> after"
        f' {len(trial["curve"])} epochs<br><span class="soft">{text(trial["reason"] or "")}</span></li>'
        for trial in study["trials"]
        if trial["status"] != FINISHED
    )
    return f"<ul>\n{items}\n</ul>" if items else '<p class="soft">All trials finished. 全部完成。</p>'


def _settings(search: Record) -> str:
    blocks = [
        f"<div><h3>{text(name)}</h3>\n"
        + table(
            (), ([text(key), f"<code>{text(setting(value))}</code>"] for key, value in fields.items()), kind="plain"
        )
        + "</div>"
        for name, fields in search.items()
        if isinstance(fields, Mapping)
    ]
    return f'<div class="pair">\n{"".join(blocks)}\n</div>' if blocks else ""


def _command(search: Record) -> str:
    return command_block(search["command"]) if search.get("command") else ""


def _plot(study: Record) -> str:
    """A dot a seed, the mean as a bar and its interval as a line, by configuration, dev above test."""
    parts, bottom = score_marks(study, left=LEFT, right=RIGHT, top=TOP)
    if not parts:
        return '<p class="soft">No trial has finished.</p>'
    drawn = "\n".join(parts)
    keys = "".join(
        f'<span class="key {colour}"></span>{split} &ensp;' for colour, split in (("a", "dev"), ("b", "test"))
    )
    return (
        f'<figure class="study"><figcaption><small>{keys}dots are seeds, a bar is their mean, a line its 95 % interval'
        f'</small></figcaption>\n<svg viewBox="0 0 {WIDTH} {bottom + 20:.0f}" role="img"'
        f' aria-label="Entity F1 by configuration">\n{drawn}\n</svg></figure>'
    )
