"""What sources say of themselves, read without importing: first lines of docstrings, comments."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from importlib.util import find_spec
from pathlib import Path


def source_of(module: str) -> Path | None:
    """The file of a module, found without importing it or the packages it lies in."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin)
    for root in spec.submodule_search_locations or ():
        path = Path(root).joinpath(*rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def summary(file: Path | None, name: str = "") -> str:
    """The first sentence of the docstring of ``name`` in a file, else of the file's own.

    Empty where there is none, or the file cannot be read as Python: what is listed must not fail
    over one of its entries.
    """
    if file is None:
        return ""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ""
    documented = (ast.ClassDef, ast.FunctionDef)
    own = [n for n in tree.body if isinstance(n, documented) and n.name == name]
    texts = [ast.get_docstring(node) for node in (*own, tree)]
    return next((_first(text) for text in texts if text), "")


def _first(docstring: str) -> str:
    """The first paragraph as one line, without the stop at its end."""
    paragraph = docstring.strip().split("\n\n", 1)[0]
    return " ".join(paragraph.split()).removesuffix(".")


def comments(settings: type) -> dict[str, str]:
    """What is written beside, or above, each field of a dataclass, base classes' fields too."""
    found: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        if cls is object or "__annotations__" not in vars(cls):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(cls))
        except (OSError, TypeError):
            continue
        found |= _of_fields(source)
    return found


def _of_fields(source: str) -> dict[str, str]:
    lines: dict[int, str] = {}
    alone: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0]] = token.string.lstrip("# ").strip()
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    (cls,) = ast.parse(source).body
    assert isinstance(cls, ast.ClassDef)
    found = {}
    for node in cls.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        above: list[str] = []
        number = node.lineno - 1
        while number in alone:
            above.insert(0, lines[number])
            number -= 1
        beside = [lines[n] for n in (node.end_lineno or node.lineno,) if n in lines]
        text = " ".join(above + beside)
        if text:
            found[node.target.id] = text
    return found
