"""What a stage's key is made of, what it refuses, and the order of a graph."""

import copy
import json
from dataclasses import dataclass

import pytest

from piflow_bench.pipeline.stage import Stage, Task, closure, left_out
from tests.pipeline.tasks import stage_of

CONFIG = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "e": None, "f": 0.5, "g": True}


@dataclass(frozen=True, kw_only=True)
class Toy(Task):
    kind = "toy"
    reads = ("samples", "weights")

    n: int
    shift: float = left_out(1.0)
    mode: str = "usual"


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))
    else:
        yield path


def test_a_key_ignores_order_and_words_for_people():
    other = {k: CONFIG[k] for k in reversed(CONFIG)}
    other["b"] = {"d": "x", "c": [1, 2]}
    a = stage_of("draw", dataset=CONFIG, label="one", about={"variant": "x"}, weight=1)
    b = stage_of("draw", dataset=other, label="two", about={"variant": "y"}, weight=9)
    assert a.key == b.key


@pytest.mark.parametrize("path", list(leaves(CONFIG)), ids=str)
def test_a_key_changes_with_every_field(path):
    changed = copy.deepcopy(CONFIG)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = "changed"
    assert stage_of("draw", dataset=changed).key != stage_of("draw", dataset=CONFIG).key


def test_a_key_changes_with_kind_and_inputs():
    a, b = stage_of("draw", 1), stage_of("draw", 2)
    keys = {
        stage_of("draw").key,
        stage_of("metrics").key,
        stage_of("metrics", inputs={"generated": (a,)}).key,
        stage_of("metrics", inputs={"reference": (a,)}).key,
        stage_of("metrics", inputs={"generated": (b,)}).key,
        stage_of("metrics", inputs={"generated": (a, b)}).key,
        stage_of("metrics", inputs={"generated": (b, a)}).key,
    }
    assert len(keys) == 7


def test_a_number_that_is_none_is_refused():
    with pytest.raises(ValueError):
        _ = stage_of("draw", dataset={"x": float("nan")}).key


def test_closure_puts_inputs_first_and_each_once():
    a = stage_of("draw", 1)
    b = stage_of("features", inputs={"samples": (a,)})
    c = stage_of("metrics", inputs={"generated": (b,), "reference": (stage_of("draw", 1),)})
    assert [s.kind for s in closure([c, b, a])] == ["draw", "features", "metrics"]


def test_a_field_that_came_later_is_in_no_key_while_it_has_its_default():
    assert Toy(n=1).content == {"n": 1, "mode": "usual"}
    assert Toy(n=1, shift=2.0).content == {"n": 1, "shift": 2.0, "mode": "usual"}
    assert Stage(Toy(n=1)).key == Stage(Toy(n=1, shift=1.0)).key
    assert Stage(Toy(n=1)).key != Stage(Toy(n=1, shift=2.0)).key


def test_a_key_is_the_digest_of_what_is_written_here():
    """It names artifacts of years ago."""
    from hashlib import sha256

    below = Stage(Toy(n=2))
    stage = Stage(Toy(n=1), {"samples": (below,)})
    text = json.dumps(
        {"config": {"mode": "usual", "n": 1}, "inputs": {"samples": [below.key]},
         "stage": "toy", "version": 1},
        separators=(",", ":"),
    )  # fmt: skip
    assert stage.key == sha256(text.encode()).hexdigest()
    assert stage.name == f"toy-{stage.key[:20]}"


def test_a_revision_makes_anew(monkeypatch):
    before = Stage(Toy(n=1)).key
    monkeypatch.setattr(Toy, "revision", 2)
    assert Stage(Toy(n=1)).key != before


def test_inputs_that_a_task_does_not_read_are_refused():
    below = Stage(Toy(n=2))
    with pytest.raises(TypeError, match="toy reads no noise, sample"):
        Stage(Toy(n=1), {"samples": (below,), "sample": (), "noise": (below,)})


def test_what_comes_before_is_in_the_graph_and_in_no_key():
    first, read = Stage(Toy(n=1)), Stage(Toy(n=2))
    after = Stage(Toy(n=3), {"samples": (read,)}, after=(first,))
    assert after.parents() == [read, first] and closure([after]) == [read, first, after]
    assert after.key == Stage(Toy(n=3), {"samples": (read,)}).key


def test_a_task_that_does_nothing_says_so(tmp_path):
    with pytest.raises(NotImplementedError):
        Toy(n=1).run({}, tmp_path, None, lambda *told: None)
