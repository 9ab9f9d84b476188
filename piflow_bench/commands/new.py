"""`new KIND NAME`: a small, working plugin to start from."""

from __future__ import annotations

import argparse
import re
from importlib.resources import files
from pathlib import Path

from piflow_bench import registry
from piflow_bench.commands.arguments import only_out
from piflow_bench.errors import OK, UserError
from piflow_bench.evaluation.metrics.metric import all_metrics

NAME = re.compile(r"[a-z][a-z0-9_]*")
KINDS = ("method", "dataset", "teacher", "space", "extractor", "reward", "metric")
"""Kinds that there is a template of, a file each in ``templates``."""


def new_plugin(kind: str, name: str, out: str) -> Path:
    """Write ``<out>/<name>.py``, a plugin that passes `check`.

    Raises:
        UserError: if the name is not a plain lower-case one or is taken, or the file exists.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}': a {kind}'s name is a small letter, then a-z, 0-9 and _")
    taken = {each.name: each.source for each in registry.find(kind).values()}
    if kind == "metric":  # An entry of them may name several.
        taken |= dict.fromkeys(all_metrics(), "an installed plugin")
    if name in taken:
        raise UserError(f"'{name}' is a {kind} of {taken[name]} already; take another name")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={out}: not a folder")
    words = "".join(word.capitalize() for word in name.split("_"))
    text = files("piflow_bench.commands.templates").joinpath(f"{kind}.py").read_text("utf-8")
    text = text.replace("CLASS", words).replace("CONSTANT", name.upper())
    text = text.replace("LABEL", name.replace("_", " ").capitalize()).replace("NAME", name)
    path = folder / f"{name}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} exists; it is not overwritten") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return path


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", help="name of the plugin: letters, digits and _")
    parser.add_argument("settings", nargs="*", help="out=FOLDER (default: the current folder)")


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    print(new_plugin(options.kind, options.name, only_out(options.settings) or "."))
    return OK
