"""The page's figures as SVG and PNG files, each of which stands for itself in a paper or a talk."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from piflow_reports.figures.base import MORE, Figure, safe

from piflow_bench.errors import UserError

WIDTH = 820
INK = "#1c2430"
LINE, ENTRY = 19, 24  # Pixels of a caption's line, and of a legend's.
UNFIT = re.compile(r"[^\w.-]+")
"""What a file's name has no place for."""
FORMATS = {"svg": {}, "png": {"scale": 2}}


def write_stills(figures: dict[str, Figure], folder: Path) -> None:
    """Write every figure under its name, as SVG and as PNG of twice its size in pixels.

    Drawn by an installed Chromium or Chrome, without a request to any address.

    Raises:
        UserError: if kaleido or a browser is missing.
    """
    try:
        import kaleido
        from choreographer.browsers.chromium import Chromium
    except ImportError as error:
        raise UserError(
            "report --figures: needs kaleido: pip install 'piflow_bench[figures]'"
        ) from error
    if not Chromium.find_browser(skip_local=False):
        raise UserError(
            "report --figures: needs Chromium or Chrome: install one (apt install chromium), or "
            "name its file with the environment variable BROWSER_PATH"
        )
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        {
            "fig": (drawn := still(figure)),
            "path": folder / f"{UNFIT.sub('-', name)}.{kind}",
            "opts": {"format": kind, **options, **_size(drawn)},
        }
        for name, figure in figures.items()
        for kind, options in FORMATS.items()
    ]
    # Its page would fetch MathJax from a server.
    kaleido.write_fig_from_object_sync(jobs, kopts={"mathjax": False})
    missing = [job["path"].name for job in jobs if not job["path"].is_file()]
    if missing:
        raise RuntimeError(f"figures that were not drawn: {', '.join(missing)}")


def _size(drawn: dict[str, Any]) -> dict[str, int]:
    return {name: drawn["layout"][name] for name in ("width", "height")}


def still(figure: Figure) -> dict[str, Any]:
    """A plotly figure on white, with title, caption and legend, which the page has in HTML."""
    content = json.loads(figure.spec)
    layout, data = content["layout"], content["data"]
    caption = textwrap.wrap(figure.caption.replace(MORE, ""), 118)
    lines = [f"<b>{safe(figure.title)}</b>"]
    lines += [f"<span style='font-size:12px'>{safe(line)}</span>" for line in caption]
    top = 34 + LINE * len(lines)
    seen: set[str] = set()
    for trace in data:
        name = trace.get("name")
        # Bars say on their axis whose they are, unless they are stacked.
        told = trace["type"] == "scatter" or "barmode" in layout
        trace["showlegend"] = bool(name) and told and name not in seen
        if name and told:
            trace["legendgroup"] = name
            seen.add(name)
    layout.pop("legend", None)  # At the right, where a long one has room.
    own = int(layout.get("height") or figure.height)
    layout |= {
        "width": WIDTH,
        "height": top + max(own, ENTRY * len(seen) + 70),
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {**layout.get("font", {}), "color": INK, "family": "DejaVu Sans, sans-serif"},
        "title": {"text": "<br>".join(lines), "x": 0, "xanchor": "left", "xref": "paper",
                  "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 14},
                  "font": {"size": 15}},
        "margin": {**layout.get("margin", {}), "t": top},
        "showlegend": bool(seen),
    }  # fmt: skip
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"linecolor": INK, "tickcolor": INK}
    return content
