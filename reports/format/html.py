"""Templates filled in: one page that asks nobody for anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup
from piflow_reports.format import names as words
from plotly.offline import get_plotlyjs

HERE = Path(__file__).parents[1]


class _Compiled(BytecodeCache):
    """Templates that this process has compiled: a page's take as long as its tables."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """What is kept of a template in its present form."""
        if bucket.key in self.kept:
            bucket.bytecode_from_string(self.kept[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep it."""
        self.kept[bucket.key] = bucket.bytecode_to_string()


COMPILED = _Compiled()


def _static(name: str) -> Markup:
    return Markup((HERE / "static" / name).read_text("utf-8"))


def _whole(text: str) -> str:
    """A sentence whose intervals are not broken over two lines."""
    return re.sub(r"\[[^\[\]]{1,40}\]", lambda found: found[0].replace(" ", "\u00a0"), text)


def render(template: str, title: str, plots: bool, **context: Any) -> str:
    """The text of a page; ``plots`` says whether it holds figures, for plotly weighs 4.6 MB."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=COMPILED,
    )
    environment.filters["whole"] = _whole
    tips: dict[str, str] = {}

    def tip(text: str) -> str:
        """The id of what describes a name; every text stands once, at the page's end."""
        return tips.setdefault(text, f"tip-{len(tips)}")

    environment.globals.update(
        tip=tip,
        tips=tips,
        tones=words.TONES,
        metric=words.metric,
        arrow=words.arrow,
        duration=words.duration,
        compact=words.compact,
        dash=words.MISSING,
        figures=words.figures,
    )
    return environment.get_template(template).render(
        title=title,
        css=_static("report.css"),
        navigation=_static("navigation.js"),
        script=_static("report.js"),
        plotly=Markup(get_plotlyjs()) if plots else "",
        **{"live": None, **context},
    )
