"""Where trials look: values of every place, what is stated, and ranges of an experiment's own."""

from dataclasses import dataclass

import numpy as np
import pytest

from piflow_bench import registry
from piflow_bench.errors import UserError
from piflow_bench.search import (
    among,
    between,
    check_declared,
    check_ranges,
    declared,
    log_between,
    searched,
)
from piflow_bench.settings import build_dataclass, setting
from piflow_bench.tuning.trials import points


@dataclass(frozen=True)
class Config:
    """Settings of a method."""

    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    ratio: int = setting(5, least=1, search=among(1, 2, 5))
    gan: bool = True
    weight: float = setting(0.1, least=0, search=between(0.1, 0.3, needs="gan"))
    law: str = setting("a", choices=("a", "b"))
    width: int = setting(1, least=1, search=among(1, 2, needs="law=b"))


def test_a_share_of_the_way_is_a_value():
    assert [between(2, 4).value(u) for u in (0, 0.5, 0.99)] == [2, 3, 4]
    assert [log_between(1e-4, 1e-2).value(u) for u in (0, 0.5)] == [1e-4, 1e-3]
    assert [among("a", None, 3).value(u) for u in (0, 0.34, 0.67, 0.999)] == ["a", None, 3, 3]


@pytest.mark.parametrize(
    "stated, names",
    [
        ({}, {"lr", "ratio", "weight"}),
        ({"lr": 1.0}, {"ratio", "weight"}),
        ({"gan": False}, {"lr", "ratio"}),
        ({"law": "b"}, {"lr", "ratio", "weight", "width"}),
    ],
)
def test_what_a_variant_states_is_not_looked_for_nor_what_says_nothing_then(stated, names):
    assert set(searched(Config, stated, {})) == names


def test_an_experiment_has_ranges_of_its_own():
    found = searched(Config, {}, {"lr": [1e-3, 1e-1]})
    assert found["lr"].value(0.5) == 1e-2 and found["lr"].log
    assert found["weight"] == declared(Config)["weight"]


@pytest.mark.parametrize(
    "ranges, words",
    [
        ({"rl": [1, 2]}, "did you mean 'lr'"),
        ({"lr": [2, 1]}, "the lower first"),
        ({"lr": 3}, "two numbers"),
        ({"lr": [1, "x"]}, "two numbers"),
        ({"lr": [1, float("inf")]}, "two numbers"),
        ({"lr": [0, 1]}, "above 0"),
        ({"ratio": [1, 2]}, "is one of 1, 2, 5"),
    ],
)
def test_a_range_that_is_none_is_one_line(ranges, words):
    with pytest.raises(UserError, match=words) as error:
        check_ranges(ranges, {"x": declared(Config)})
    assert str(error.value).startswith(f"search.{next(iter(ranges))}=")


def test_every_built_in_method_looks_where_its_bounds_allow():
    known = {name: plugin.load() for name, plugin in registry.find("method").items()}
    for name, cls in known.items():
        check_declared(cls.Config)
        if cls.facts.trained_here:
            assert "lr" in declared(cls.Config), name


def test_a_place_that_the_bounds_refuse_is_named():
    @dataclass(frozen=True)
    class Wrong:
        share: float = setting(0.5, least=0, most=1, search=between(0.5, 2))

    @dataclass(frozen=True)
    class Lonely:
        share: float = setting(0.5, least=0, search=between(0.5, 2, needs="gan"))

    with pytest.raises(ValueError, match="share: its search looks at 2"):
        check_declared(Wrong)
    with pytest.raises(ValueError, match="needs gan"):
        check_declared(Lonely)


@pytest.mark.parametrize("trials", [2, 8, 9])
def test_points_begin_with_the_defaults_and_more_trials_go_on_with_the_same(trials):
    space = searched(Config, {"law": "b"}, {})
    found = points(space, trials)
    assert len(found) == trials and found[0] == {}
    assert found == points(space, 16)[:trials]
    for values in found[1:]:
        build_dataclass(Config, {"law": "b", **values}, "x")


def test_points_spread_evenly_over_every_setting():
    rates = [p["lr"] for p in points(searched(Config, {}, {}), 9)[1:]]
    places = np.sort((np.log10(rates) + 5) / 2 * 8)
    assert np.array_equal(np.floor(places), np.arange(8)), "one in each eighth of the range"
    ratios = [p["ratio"] for p in points(searched(Config, {}, {}), 33)[1:]]
    assert min(ratios.count(v) for v in (1, 2, 5)) >= 10
