"""Two languages in one site: a page shows the navigation of its own language, and a link to itself in the other.

A hook of MkDocs. English pages lie in docs/, their Chinese counterparts under the same names in docs/zh/.
"""

from pathlib import Path

from mkdocs.structure.nav import Navigation

WORDS = {
    'lang="en"': 'lang="zh-CN"',
    "Search docs": "搜索文档",
    "> Previous<": "> 上一页<",
    ">Next <": ">下一页 <",
    'title="Previous"': 'title="上一页"',
    'title="Next"': 'title="下一页"',
}
"""What the theme says, in Chinese."""


def is_chinese(page):
    return page.file.src_uri.startswith("zh/")


def on_nav(nav, config, files):
    """Previous and next stay in one language."""
    for page in nav.pages:
        for side in ("previous_page", "next_page"):
            if getattr(page, side) and is_chinese(getattr(page, side)) != is_chinese(page):
                setattr(page, side, None)
    return nav


def on_page_context(context, page, config, nav):
    chinese, name = is_chinese(page), page.file.src_uri.removeprefix("zh/")
    pages = {one.file.src_uri: one for one in nav.pages}
    section = next(item for item in nav.items if (page in item.children))
    own = Navigation(section.children, nav.pages)
    own.homepage = pages["zh/index.md" if chinese else "index.md"]
    other = pages.get(name if chinese else f"zh/{name}", pages["index.md" if chinese else "zh/index.md"])
    context.update(nav=own, other=other, other_language="English" if chinese else "中文")
    return context


def on_post_page(output, page, config):
    if is_chinese(page):
        for english, chinese in WORDS.items():
            output = output.replace(english, chinese)
    return output


def on_post_build(config):
    """The search of the theme knows words between spaces only."""
    search = Path(config.site_dir, "search", "lunr.js")
    chinese = Path(__file__).with_name("chinese_search.js")
    search.write_text(search.read_text("utf-8") + "\n" + chinese.read_text("utf-8"), encoding="utf-8")
