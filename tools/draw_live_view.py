"""The live picture of a run as an SVG: what `darts-async top RUN` shows now. README.md shows `configs/live.svg`.

`python tools/draw_live_view.py RUN OUT.svg [--columns 120]`, while the run goes on or behind it. The file stands alone:
no fonts, links or scripts.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

from rich.console import Console

from darts_async.launcher.top import top

FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def main() -> int:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=120)
    arguments = parser.parse_args()
    # Encoded as a terminal is that has all characters, but no terminal: the picture is printed once.
    sink = io.TextIOWrapper(io.BytesIO(), "utf-8")
    console = Console(record=True, file=sink, width=arguments.columns, height=40, color_system="truecolor")
    status = top(arguments.run, console)
    svg = console.export_svg(title="darts-async up", unique_id="live")
    svg = re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", FONTS)
    arguments.out.write_text(svg, "utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
