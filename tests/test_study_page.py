"""The page of a search: whole, escaped, self-contained, and drawn by a browser without a complaint."""

import shlex
from pathlib import Path

import pytest
from browser import Browser
from test_report import HOSTILE, Page
from test_study import trial, trials

from ray_bilstm import cli_tune, tune
from ray_bilstm.cli import make_parser
from ray_bilstm.config import Config
from ray_bilstm.search_directory import open_search, read_study, write_page
from ray_bilstm.space import Plan, parse_axes
from ray_bilstm.study import make_study
from ray_bilstm.study_page import render_study

COMMAND = "python -m ray_bilstm tune --device cpu --seeds 1,2 --batch-sizes 16,32"
SEARCH = {"model": {"head": "crf"}, "plan": {"search": "grid"}, "command": COMMAND}
FAILED = trial({"batch_size": 32}, 9, 0.0, status="failed", reason="a worker failed: no memory for 沈遥")
TRIALS = [*trials([0.90, 0.92], batch_size=16), *trials([0.81, 0.82], batch_size=32), FAILED]


def test_a_study_is_shown_with_all_its_figures() -> None:
    page = Page(render_study(make_study(TRIALS), SEARCH))
    assert page.sections == [*("entity-f1", "scores", "differences", "not-finished", "shared-settings", "reproduce")]
    for text in ("batch_size=16", "0.9100 ± 0.0141", "0.9000", "0.9200", "2 of 3", "+0.0950", "0.500", COMMAND):
        assert text in page.text
    for text in ("a worker failed: no memory for 沈遥", "trials/{'batch_size': 16}-2", "0.9000 to 0.9200"):
        assert text in page.text
    assert page.count("circle") == 8, "four seeds on dev and on test"
    assert (page.count("line", "interval"), page.count("rect", "mean")) == (4, 4)
    assert page.count("strong") == 5, "the best once a table, and a status"


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_it_shows() -> None:
    hostile = trial({"note": HOSTILE}, 1, 0.5, status="failed", reason=HOSTILE)
    found = make_study([*trials([0.5], note=HOSTILE), *trials([0.4], note="x"), hostile | {"seed": 2}])
    source = render_study(found, {HOSTILE: {HOSTILE: HOSTILE}, "command": HOSTILE})
    assert "<script" not in source
    page = Page(source)
    assert page.count("script") == page.count("img") == 0
    assert "http" not in source.replace("http-equiv", "")
    assert source == render_study(found, {HOSTILE: {HOSTILE: HOSTILE}, "command": HOSTILE})


def test_folders_of_the_machine_are_not_shown() -> None:
    failed = trial({}, 1, 0.5, status="failed", reason="/home/me/runs/s/trials/x: got nothing")
    search = {"data": {"data_dir": "/srv/data"}, "run": {"output_dir": "/home/me/runs/s"}, "command": "x --y /srv/data"}
    page = Page(render_study(make_study([*trials([0.5]), failed | {"seed": 9}]), search))
    assert "/home" not in page.text
    assert "/srv" not in page.text
    assert "x --y .../data" in page.text


@pytest.mark.parametrize("status", ["failed", "stopped", "unfinished"])
def test_a_search_of_which_nothing_has_finished_still_renders(status) -> None:
    page = Page(render_study(make_study([trial({}, 1, 0.0, status=status)]), {}))
    assert "No trial has finished" in page.text and status in page.text
    assert page.sections == ["entity-f1", "scores", "not-finished"]


def test_one_seed_and_one_configuration() -> None:
    page = Page(render_study(make_study(trials([0.5])), {}))
    assert (
        "as given" in page.text
        and "0.5000" in page.text
        and "±" not in page.text.split("95 %")[-1]
        and "All trials finished." in page.text
    )


def test_the_command_asks_for_the_same_search(tmp_path, monkeypatch) -> None:
    axes = parse_axes(["batch_size=16,32", "dropout=0.3..0.6", "learning_rate=log:1e-3..1e-2", "hidden_size=8..16"])
    plan = Plan(seeds=(3, 4), axes=axes, search="random", samples=5, scheduler="asha", max_concurrent=2)
    config = Config().with_fields(head="softmax", seed=7, data_dir="my data", output_dir="x", resume=True)
    open_search(tmp_path, config, plan)
    (tmp_path / "trials" / "one").mkdir(parents=True)
    (tmp_path / "trials" / "one" / "trial.json").write_text(
        '{"config": {}, "seed": 1, "status": "failed", "reason": ""}'
    )
    page = Page(write_page(tmp_path, read_study(tmp_path)).read_text(encoding="utf-8"))
    command = page.text[page.text.index("python -m ray_bilstm tune") :].strip()
    asked = []

    def search(config, plan, **callbacks):
        asked.append((config, plan))
        raise RuntimeError

    monkeypatch.setattr(tune, "search", search)
    with pytest.raises(RuntimeError):
        cli_tune.tune_command(make_parser().parse_args(shlex.split(command)[3:]))
    assert asked == [(Config().with_fields(head="softmax", data_dir="my data"), plan)]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1100, 390])
def test_a_browser_draws_it(tmp_path: Path, width: int, dark: bool) -> None:
    page = tmp_path / "study.html"
    page.write_text(render_study(make_study(TRIALS), SEARCH), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page, width=width, dark=dark)
        assert browser.complaints == []
        assert browser.requests == [page.as_uri()]
        assert browser.ask("document.documentElement.scrollWidth") == width, "only tables scroll"
        assert browser.ask("document.querySelector('.study svg').getBoundingClientRect().width") > 300
        paper = browser.ask("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(21, 23, 27)" if dark else "rgb(252, 251, 249)")
