"""Bounds of settings: every field of every settings dataclass declares them, every door holds them.

A field is set to -1, 0, nan, inf and "x" (and "y" in place of a switch): the value is taken as it
is because it is declared to be allowed, or refused in one line that names the field.
"""

import dataclasses
import itertools
import math
import re
import typing
from dataclasses import dataclass

import numpy as np
import pytest

from piflow_bench import registry
from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.config.schema import ExperimentConfig
from piflow_bench.errors import UserError
from piflow_bench.settings import (
    Location,
    bounds_of,
    build_dataclass,
    nested,
    read_setting,
    setting,
)

ODD = (-1, 0, math.nan, math.inf, -math.inf, "x", True, [], ["x"], {})

TOGETHER = (
    "reference", "checkpoints", "guidance_low", "guidance_high",
    "time_low", "time_high", "fake_time_low", "fake_time_high", "inner_low", "inner_high",
    "first_steps", "first_grid", "depths", "base_share", "adversary_share", "ratio_moves", "guided",
    "temperatures",
)  # fmt: skip
"""Fields that are refused for what they say together with others."""


def inside(cls):
    """A settings dataclass and those that its fields are of."""
    yield cls
    for kind in typing.get_type_hints(cls).values():
        for part in (kind, *typing.get_args(kind)):
            if dataclasses.is_dataclass(part):
                yield from inside(part)


def settings_classes():
    """Every settings dataclass of the product by a name."""
    from piflow_bench.commands.evaluate_settings import Settings as EvaluateSettings
    from piflow_bench.commands.prepare import Machine
    from piflow_bench.evaluation.settings import Settings as MetricSettings
    from piflow_bench.preparation.job import Preparation
    from piflow_bench.teachers.digits_weights import FlowMatchingConfig

    roots = [ExperimentConfig, Preparation, Machine, MetricSettings, EvaluateSettings]
    roots.append(FlowMatchingConfig)
    for plugin in registry.find("method").values():
        roots += [plugin.load().Config, plugin.load().Sampling]
    for kind in ("dataset", "teacher", "space", "extractor"):
        roots += [plugin.load().Config for plugin in registry.find(kind).values()]
    found = {c: None for root in roots for c in inside(root)}
    return sorted(found, key=lambda c: f"{c.__module__}.{c.__qualname__}")


CLASSES = settings_classes()


def name_of(value):
    return f"{value.__module__}.{value.__name__}"


def test_the_walk_finds_them():
    names = {c.__name__ for c in CLASSES}
    assert names >= {
        "ExperimentConfig", "VariantConfig", "Protocol", "LauncherConfig", "ConvergedConfig",
        "Budget", "EMASettings", "TrainingSettings", "Scale", "Preparation", "Settings", "Config",
    }  # fmt: skip
    assert sum(len(dataclasses.fields(c)) for c in CLASSES) > 150


@pytest.mark.parametrize("cls", CLASSES, ids=name_of)
def test_every_field_declares_what_it_may_be(cls):
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if kind is not bool and not dataclasses.is_dataclass(kind):
            assert bounds_of(field), f"declare {field.name} with piflow_bench.api.setting"


def allowed(kind, bounds, value):
    """Whether a declaration allows a value: written without the validator."""
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        return isinstance(value, list) and all(allowed(arguments[0], bounds, v) for v in value)
    if origin is dict or dataclasses.is_dataclass(kind):
        return value == {}
    if arguments:
        return any(allowed(k, bounds, value) for k in arguments)
    if kind is bool:
        return value is True
    if kind is typing.Any:
        return True
    if kind in (str, Location):
        choices = bounds.choices() if callable(bounds.choices) else bounds.choices
        return (
            isinstance(value, str)
            and (choices is None or value in choices)
            and (bounds.pattern is None or bool(re.fullmatch(bounds.pattern, value)))
        )
    if kind not in (int, float) or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not math.isfinite(value) or (kind is int and not isinstance(value, int)):
        return False
    edges = (("least", lambda e: value >= e), ("above", lambda e: value > e),
             ("most", lambda e: value <= e), ("below", lambda e: value < e))  # fmt: skip
    return all(
        getattr(bounds, edge) is None or holds(getattr(bounds, edge)) for edge, holds in edges
    )


@pytest.mark.parametrize("cls", CLASSES, ids=name_of)
def test_odd_values_are_taken_as_declared_or_refused_by_name(cls):
    hints = typing.get_type_hints(cls)
    needed = {f.name: "a" for f in dataclasses.fields(cls) if f.default == "???"}
    if cls.__module__ == "piflow_bench.commands.evaluate_settings":
        needed["samples"] = "a"
    for field, value in itertools.product(dataclasses.fields(cls), ODD):
        name, kind = field.name, hints[field.name]
        fine = allowed(kind, bounds_of(field), value)
        try:
            made = build_dataclass(cls, {**needed, name: value}, "some")
        except UserError as error:
            assert "\n" not in str(error)
            assert name in str(error), error
            assert not fine or name in TOGETHER, error
            continue
        kept = getattr(made, name)
        assert fine, f"{name}={value!r} became {kept!r}"
        same = kept is value or kept == (tuple(value) if isinstance(kept, tuple) else value)
        assert same or value == {}
        assert isinstance(kept, bool) == isinstance(value, bool)


NAMED = {
    "training.clip=-1": "training.clip=-1.0: must be at least 0",
    "training.clip=nan": "training.clip=nan: must be a finite number, at least 0",
    "training.ema.decay=1.5": "training.ema.decay=1.5: must be at least 0 and below 1",
    "protocol.sampling_precision=fp16": (
        "protocol.sampling_precision=fp16: must be fp32 or bf16; did you mean"
    ),
    "protocol.precision=bf16": "is called protocol.sampling_precision=bf16 now",
    "protocol.agreement=teacher_lpips": "protocol.agreement=teacher_lpips: must be teacher_mse or",
    "budget.amount=inf": "budget.amount=inf: must be a finite number, above 0",
    "scale.compile=-1": "scale.compile=-1: must be bool",
    "aa=1": "aa=1: must be bool",
    "sample_seed=nan": "sample_seed=nan",
    "save_seconds=inf": "save_seconds=inf: must be a finite number, at least 0",
    "variants.kd.settings.lr=nan": "variants.kd.settings.lr=nan: must be a finite number",
    "variants.kd.training.clip=-1": "variants.kd.training.clip=-1: must be at least 0",
    "variants.kd.training.ema={decay:2}": "variants.kd.training.ema.decay=2",
    "variants.piflow-gm8.sampling.temperature=[1,nan]": "piflow-gm8.sampling.temperature=nan: must",
    "variants.teacher-euler.sampling.guidance=nan": "teacher-euler.sampling.guidance=nan: must be",
    "variants.teacher-euler.sampling.guidance=-1": "guidance=-1: must be at least 0",
    "variants.teacher-euler.sampling.guidance=[1,x]": "teacher-euler.sampling.guidance=x: must be",
    "variants.teacher-euler.sampling.guidance=null": "sampling.guidance=None: must be float",
    "variants.meanflow.sampling.shift=0": "variants.meanflow.sampling.shift=0: must be above 0",
    "variants.meanflow.sampling.shift=inf": "sampling.shift=inf: must be a finite number, above 0",
    "variants.kd.budget.amount=inf": "variants.kd.budget.amount=inf: must be a finite number",
    "teacher.guidance=-1": "teacher.guidance=-1: must be at least 0",
    "teacher.guidance=true": "teacher.guidance=True: must be float",
    "protocol.settings.confidence=2": "protocol.settings.confidence=2",
    "launcher.memory_gb=nan": "launcher.memory_gb=nan: must be a finite number, above 0",
    "launcher.stages.metrics.pack=0": "launcher.stages.metrics.pack=0: must be at least 1",
    "launcher.stages.metric.pack=2": "launcher.stages.metric: no such stage; did you mean",
    "launcher.variants.kdd.minutes=9": "launcher.variants.kdd: no such variant; did you mean 'kd'",
}


@pytest.mark.parametrize("given", NAMED)
def test_a_run_refuses_what_is_out_of_bounds(given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--plan", "profile=smoke", given]) == 2
    error = capsys.readouterr().err
    assert NAMED[given] in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class TestReading:
    """One reading of key=value: what hydra reads, `check`, `evaluate` and `prepare` read."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("null", None),
            ("1e-4", 1e-4), ("0x10", "0x10"), ("1:30", "1:30"), ("[a,b]", ["a", "b"]),
            ("{a: 1}", {"a": 1}), ("'a, b'", "a, b"), ("3", 3), ("3.0", 3.0), ("08", "08"),
        ],
    )  # fmt: skip
    def test_is_hydras(self, text, value):
        assert read_setting(f"a={text}") == ("a", value)
        assert type(read_setting(f"a={text}")[1]) is type(value)
        (config,) = compose([f"variants.kd.settings.beta1={text}"])
        assert config.variants["kd"].settings["beta1"] == value

    @pytest.mark.parametrize("argument", ["a=[1", "a={x", "a=1,2", "+a=1", "a='x", "~a"])
    def test_refuses_in_one_line(self, argument):
        with pytest.raises(UserError) as error:
            read_setting(argument)
        assert str(error.value).startswith(argument)
        assert "\n" not in str(error.value)

    def test_nests(self):
        assert nested(["a.b=1", "a.c=[2]", "d=x"]) == {"a": {"b": 1, "c": [2]}, "d": "x"}
        with pytest.raises(UserError, match="'a' is set to a value"):
            nested(["a=1", "a.b=2"])

    @pytest.mark.parametrize(
        "arguments",
        [
            ["prepare", "imagenet", "source=s", "out=o", "batch=[1"],
            ["evaluate", "samples=s", "reference=r", "n=[1"],
            ["check", "kd", "lr=[1"],
            ["run", "--plan", "nfes=[1"],
        ],
        ids=lambda a: a[0],
    )
    def test_every_verb_refuses_bad_text_in_one_line(self, arguments, capsys):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {arguments[-1]}: ")
        assert error.count("\n") == 1


@dataclass(frozen=True)
class Sample:
    share: float = setting(0.5, least=0, below=1)
    names: tuple[str, ...] = setting((), choices=("red", "green", "blue"))
    many: str = setting("a", choices=tuple("abcdefg") + ("hello",))
    free: str = setting("", pattern="[a-z]*", words="small letters")
    seeds: list[int] | None = setting(None, least=0)


class TestBounds:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"share": 1}, "s.share=1: must be at least 0 and below 1"),
            ({"share": "x"}, "s.share=x: must be float, at least 0 and below 1"),
            ({"names": ["red", "gren"]}, "s.names=gren: must be red, green or blue; did you mean"),
            ({"many": "helo"}, "s.many=helo: did you mean 'hello'?"),
            ({"free": "A b"}, "s.free=A b: must be small letters"),
            ({"seeds": [3, -1]}, "s.seeds=-1: must be at least 0"),
            ({"seeds": 3}, "s.seeds=3: must be list[int] | None, at least 0; lists are written"),
        ],
    )
    def test_are_named(self, values, message):
        with pytest.raises(UserError) as error:
            build_dataclass(Sample, values, "s")
        assert str(error.value).startswith(message)

    def test_numbers_of_numpy_become_plain(self):
        made = build_dataclass(Sample, {"share": np.float32(0.25), "seeds": [np.int64(3)]}, "s")
        assert made == Sample(share=0.25, seeds=[3])
        assert type(made.share) is float
        assert type(made.seeds[0]) is int
