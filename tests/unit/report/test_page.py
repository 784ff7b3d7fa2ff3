"""The page without a browser: every figure is one that plotly knows, text of a run stays text, colours tell apart."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.cli import main
from darts_async.errors import ConfigError
from darts_async.report.charts import SECTIONS, Chart, NoChart
from darts_async.report.facts import facts
from darts_async.report.gather import gather
from darts_async.report.headline import headline
from darts_async.report.page import json_in_html, render
from darts_async.report.palette import DARK, LIGHT, contrast
from darts_async.report.write import write_report


def charts_of(folders: list[Path]) -> tuple[list[Chart], list[NoChart]]:
    data = gather(folders)
    found = [draw(data) for _, draws in SECTIONS for draw in draws]
    drawn = [chart for one in found if not isinstance(one, NoChart) for chart in one]
    return drawn, [one for one in found if isinstance(one, NoChart)]


def painted(value, colours):
    if isinstance(value, str):
        return colours.get(value, value)
    if isinstance(value, list):
        return [painted(item, colours) for item in value]
    if isinstance(value, dict):
        return {key: painted(item, colours) for key, item in value.items()}
    return value


def colours_in(value) -> set[str]:
    if isinstance(value, str):
        return {value} if value.startswith("@") else set()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return set().union(*map(colours_in, items))


@pytest.mark.parametrize("num_runs", [1, 3])
def test_every_figure_is_one_that_plotly_knows(make_run, num_runs: int):
    go = pytest.importorskip("plotly.graph_objects")
    drawn, without = charts_of([make_run(f"run{number}", 12) for number in range(num_runs)])
    assert without == []
    assert len({chart.id for chart in drawn}) == len(drawn) >= 20
    for chart in drawn:
        assert colours_in(chart.figure) <= LIGHT.keys() == DARK.keys()
        go.Figure(painted(chart.figure, LIGHT))  # raises for a property that does not exist
        assert chart.alt and chart.reading.endswith(".")


@pytest.mark.parametrize("missing", ["ledger", "metrics", "summary", "config"])
def test_a_run_that_lacks_something_gets_a_page_that_says_so(make_run, missing: str):
    page = render(gather([make_run("half", 4, **{missing: False})]))
    assert "What this report lacks" in page or missing == "summary"


def test_a_run_without_anything_gets_a_page(make_run):
    page = render(gather([make_run("none", 0, ledger=False, metrics=False, summary=False)]))
    assert "never began to sample" in page
    assert "Nothing to draw: no step has reported" in page
    assert len(page) < 100_000  # it does not bring what would draw


def test_text_of_a_run_stays_text(make_run, nasty: str):
    page = render(gather([make_run("run", 3)]))
    assert nasty not in page
    assert "&lt;script&gt;console.error" in page
    drawn, _ = charts_of([make_run("again", 3)])
    names = [trace.get("name", "") for chart in drawn for trace in chart.figure["data"]]
    assert any("&lt;script&gt;" in name for name in names)
    assert not any("<" in name for name in names)


@given(st.text())
def test_json_in_html_ends_no_element(text: str):
    encoded = json_in_html({"text": text})
    assert not set("<>&\u2028\u2029") & set(encoded)
    assert json.loads(encoded) == {"text": text}


def test_headline_says_what_the_run_came_to(make_run):
    data = gather([make_run("run", 10)])
    rows = {row.label: row.values[0] for row in headline(data)}
    assert rows["Status"] == "done"
    assert rows["Reward, held out"] == "0.25 → 0.75"
    assert rows["Length, held out"] == "50 → 30"
    assert rows["Tokens trained on"] == "60.5% of 3,010"  # 1,820 trained, 1,190 cancelled
    assert rows["Trained tokens/s"] == "364"
    assert rows["Warnings"] == "1"
    texts = [fact.text for fact in facts(data)]
    assert "At version 6: generator-0 was lost and started anew." in texts


def test_the_verb(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    folder = make_run("run", 2)
    monkeypatch.setattr("sys.argv", ["darts-async", "report", str(folder), "--out", str(tmp_path / "page.html")])
    main()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert re.search(r"page\.html \(\d\.\d MB", capsys.readouterr().out)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    folder.rename(tmp_path / "runs" / "by-name")
    monkeypatch.setattr("sys.argv", ["darts-async", "report", "by-name"])
    main()
    assert (tmp_path / "runs" / "by-name" / "report.html").is_file()
    monkeypatch.setattr("sys.argv", ["darts-async", "report", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def test_colours_have_contrast_and_differ():
    for theme in (LIGHT, DARK):
        series = [theme[f"@s{index}"] for index in range(8)]
        for colour in (*series, theme["@good"], theme["@bad"]):
            assert contrast(colour, theme["@card"]) >= 3
        for ink in ("@ink", "@muted"):
            assert contrast(theme[ink], theme["@card"]) >= 4.5
        assert all(one != other for one, other in itertools.combinations(series, 2))


def test_the_file_stands_where_it_should(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    one, two = make_run("one", 2), make_run("two", 2)
    assert write_report([one]) == one / "report.html"
    assert write_report([one, two]) == tmp_path / "report.html"
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text[: text.index("<script")])
    with pytest.raises(ConfigError, match="--out"):
        write_report([one], tmp_path / "nowhere" / "x.html")
