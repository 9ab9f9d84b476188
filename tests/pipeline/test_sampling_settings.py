"""Every setting that a variant's ``sampling`` may set is declared with its bounds, once."""

import dataclasses
import math

import pytest

from piflow_bench import registry
from piflow_bench.config.schema import VariantConfig
from piflow_bench.conformance.method.declarations import check_config
from piflow_bench.conformance.results import Failure
from piflow_bench.errors import UserError
from piflow_bench.pipeline.sampling_settings import check_sampling, sampling_choices

METHODS = {name: plugin.load() for name, plugin in registry.find("method").items()}
ALL = [(name, key) for name, method in METHODS.items() for key in sampling_choices(method)]


def made(name, **settings):
    return METHODS[name](METHODS[name].Config(**settings))


def refusal(of, **sampling):
    """The line in which a method, by its name or with settings, refuses the sampling."""
    method = made(of) if isinstance(of, str) else of
    with pytest.raises(UserError) as error:
        check_sampling(VariantConfig("v", sampling=sampling), method, "v.sampling")
    return str(error.value)


@pytest.mark.parametrize(("name", "key"), ALL)
def test_a_setting_is_declared_once(name, key):
    method = METHODS[name]
    declared = {f.name for f in dataclasses.fields(method.Config)}
    own = {f.name for f in dataclasses.fields(method.Sampling)}
    assert (key in declared) != (key in own)
    assert key in own or key in method.sampling


@pytest.mark.parametrize(("name", "key"), ALL)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "x", True, None, [], [-1], [math.nan]])
def test_what_no_sampler_could_take_is_refused_by_name(name, key, value):
    message = refusal(name, **{key: value})
    assert message.startswith(f"v.sampling.{key}=") and "\n" not in message


def test_several_values_are_each_looked_at_and_what_is_given_stays():
    entry = VariantConfig("teacher", sampling={"guidance": [1, 2.5]})
    check_sampling(entry, made("teacher", guided=True), "v.sampling")
    assert entry.sampling == {"guidance": [1, 2.5]}
    assert "guidance=-3:" in refusal(made("teacher", guided=True), guidance=[1, -3])


def test_the_nearest_setting_is_named():
    assert "did you mean 'guidance'" in refusal("teacher", guidence=1)
    entry = VariantConfig("kd", sampling={"shift": 2})
    with pytest.raises(UserError, match=r"^v.sampling.shift: no such .* of kd; it has none$"):
        check_sampling(entry, made("kd"), "v.sampling")


def test_check_names_what_is_declared_nowhere():
    class Loose(METHODS["kd"]):
        sampling = ("shift",)

    with pytest.raises(Failure, match="sampling names 'shift', which Config has not"):
        check_config(Loose)
    for method in METHODS.values():
        check_config(method)
