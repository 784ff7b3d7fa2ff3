"""The page: one HTML text with its style, its script, its data and plotly.js in it. It asks for nothing from outside.

Invariants: whatever comes out of a run is escaped where it is put (jinja2's autoescape in HTML, `json_in_html` in the
script's data), and the page's own policy forbids every request, so that a name or a warning in a run folder can neither
run nor fetch anything: only scripts that carry the number drawn for this page are run.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec

from darts_async import __version__
from darts_async.errors import ConfigError
from darts_async.report.charts import SECTIONS, Chart, NoChart
from darts_async.report.data import ReportData
from darts_async.report.facts import facts
from darts_async.report.headline import headline
from darts_async.report.palette import DARK, LIGHT

__all__ = ["json_in_html", "render"]

_ASSETS: Final = resources.files("darts_async.report") / "assets"
_UNSAFE: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what is under it."""

    id: str
    title: str
    charts: list[Chart]
    without: list[NoChart]


def render(data: ReportData, *, now: float | None = None) -> str:
    """Return the page. `now`: when it was made, seconds since 1970."""
    sections = [_section(number, title, draws, data) for number, (title, draws) in enumerate(SECTIONS, 1)]
    charts = [chart for section in sections for chart in section.charts]
    drawn = {"figures": {chart.id: chart.figure for chart in charts}, "light": LIGHT, "dark": DARK}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((_ASSETS / "page.html").read_text("utf-8"))
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    return template.render(
        data=data,
        title=data.runs[0].name if len(data.runs) == 1 else f"{len(data.runs)} runs compared",
        rows=headline(data),
        facts=facts(data),
        sections=sections,
        missing=[(run, text) for run in data.runs for text in run.missing],
        warnings=[(run, text) for run in data.runs if run.summary for text in run.summary.warnings],
        kinds={"good": "good", "look": "look here", "bad": "wrong", "note": "note"},
        nonce=secrets.token_urlsafe(16),
        made=made,
        version=__version__,
        light=_css(LIGHT),
        dark=_css(DARK),
        style=(_ASSETS / "page.css").read_text("utf-8"),
        script=(_ASSETS / "page.js").read_text("utf-8"),
        plotly=plotly_js() if charts else "",
        drawn=json_in_html(drawn),
    )


def json_in_html(value: Any) -> str:
    """JSON that stands in a script element as it is: no character of it can end the element."""
    text = msgspec.json.encode(value).decode()
    for character, escape in _UNSAFE.items():
        text = text.replace(character, escape)
    return text


def plotly_js() -> str:
    """The library that draws, as the plotly package ships it. The package itself is not imported: that takes long."""
    spec = find_spec("plotly")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path.read_text("utf-8")
    raise ConfigError("plotly", "", "the package that draws the charts is not installed", "Run: pip install plotly")


def _section(number: int, title: str, draws: tuple[Any, ...], data: ReportData) -> Section:
    charts: list[Chart] = []
    without: list[NoChart] = []
    for draw in draws:
        found = draw(data)
        if isinstance(found, NoChart):
            without.append(found)
        else:
            charts += found
    return Section(f"section-{number}", title, charts, without)


def _css(theme: dict[str, str]) -> str:
    return "".join(f"--{name.removeprefix('@')}:{colour};" for name, colour in theme.items())
