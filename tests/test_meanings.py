"""What sources say of themselves is read without running them."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from piflow_bench.meanings import comments, source_of, summary


@dataclass
class Base:
    a: int = 1  # beside
    # above, in
    # two lines
    b: int = 2

    c: int = 3


@dataclass
class Derived(Base):
    # above
    d: dict = None  # and beside
    e: str = "# no comment"


def test_comments_stand_beside_or_above_a_field():
    expected = {"a": "beside", "b": "above, in two lines", "d": "above and beside"}
    assert comments(Derived) == expected
    assert comments(dataclass(type("Made", (), {"__annotations__": {"x": int}}))) == {}


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ('"""Of the file."""\nraise SystemExit', "", "Of the file"),
        ('"""Of the file."""\nclass A:\n    """Of A,\n    in two lines.\n\n    More."""', "A",
         "Of A, in two lines"),
        ('"""Of the file."""\ndef f():\n    pass', "f", "Of the file"),
        ("x = 1", "x", ""),
        ("def f(:", "f", ""),
    ],
)  # fmt: skip
def test_a_summary_is_the_first_paragraph(text, name, words, tmp_path):
    path = tmp_path / "file.py"
    path.write_text(text)
    assert summary(path, name) == words
    assert summary(None) == summary(tmp_path / "none.py") == ""


def test_modules_are_found_without_importing_their_packages():
    code = (
        "import sys; from piflow_bench.meanings import source_of as s;"
        "print(s('piflow_bench.evaluation.extractors.inception').name,"
        "s('no_such_package.module'), s('piflow_methods.piflow.method').name,"
        "'torch' in sys.modules or 'piflow_bench.evaluation' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["inception.py", "None", "method.py", "False"], done.stderr
    assert source_of("json").name == "__init__.py"
