"""Every variant of every shipped experiment, trained a few steps and sampled in its own precision.

The networks are tiny: what is asked is whether the arithmetic of methods stands their precision.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from piflow_bench import registry, sampling
from piflow_bench.config.compose import compose
from piflow_bench.config.schema import to_plain
from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.method.trial import small
from piflow_bench.contracts.data import TensorRows
from piflow_bench.contracts.method import Spec
from piflow_bench.settings import build_dataclass
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData

ROOT = Path(__file__).parents[2] / "experiments" / "experiment"
EXPERIMENTS = sorted(
    p.stem for p in ROOT.glob("*.yaml") if not p.read_text().partition("\nparts:")[1]
)
BATCH, STEPS = 4, 3


@cache
def composed(experiment):
    (config,) = compose([f"experiment={experiment}"])
    return config


def variants(experiment):
    """What decides the arithmetic of each of its variants, by name."""
    config = composed(experiment)
    kind = "points" if config.protocol.name == "points" else "images"
    for name in config.only or config.variants:
        variant = config.variants[name]
        training = to_plain(config.training) | dict(variant.training)
        chosen = {k: training[k] for k in ("precision", "checkpointing")}
        nfes = [n for n in config.nfes if variant.nfes is None or n in variant.nfes]
        settings = dict(variant.settings)
        yield (
            name,
            (kind, variant.method, settings, chosen, config.protocol.sampling_precision, nfes),
        )


def test_experiments_have_precisions_of_their_own_and_smoke_keeps_them():
    precisions = {
        (facts[3]["precision"], facts[4])
        for experiment in ("digits", "imagenet_1nfe_repa")
        for _, facts in variants(experiment)
    }
    assert precisions == {("fp32", "fp32"), ("bf16", "bf16")}
    for experiment in EXPERIMENTS:
        assert not [key for key in composed(experiment).smoke if "precision" in key], experiment
    assert "precision" not in (ROOT.parent / "profile" / "smoke.yaml").read_text()


tried = set()
"""What one variant has in common with another, but for numbers, need not be tried twice."""


def kind_of(kind, method, settings, *rest):
    """What a variant does, whatever its numbers."""
    words = {k: None if type(v) in (int, float) else v for k, v in settings.items()}
    return json.dumps([kind, method, words, *rest])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_variant_trains_and_samples_in_its_own_precision(experiment):
    failed = {}
    for name, facts in variants(experiment):
        if (key := kind_of(*facts)) not in tried:
            tried.add(key)
            try:
                train_and_sample(*facts)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
    assert failed == {}


def train_and_sample(kind, name, settings, training, precision, nfes):
    cls = registry.get("method", name, [])
    numbers = {"pairs": 8, "pair_steps": 2, "substeps": 8}
    settings |= {k: v for k, v in numbers.items() if k in settings}
    method = cls(build_dataclass(cls.Config, settings, name))
    facts = method.facts_for()
    stand_in = getattr(standins, kind)()
    dataset = stand_in.dataset
    for nfe in nfes[:1] if facts.elastic else nfes:
        teacher = stand_in.teacher(0)
        condition = dataset.train_condition
        spec = Spec(
            dataset.shape, None if facts.elastic else nfe, BATCH, stand_in.fresh_network, condition
        )
        if not facts.trained_here:
            built = method.build(teacher, spec)
            network = built.modules["student"] if facts.trains else teacher.field
        else:
            trainer = Trainer(
                method,
                teacher,
                TrainingData(TensorRows(dataset.train), condition, reward=small),
                spec,
                TrainingSettings(batch=BATCH, warmup=1, **training),
                Budget("images", float(BATCH * STEPS), (1.0,)),
                0,
            )
            before = {k: v.clone() for k, v in trainer.modules["student"].state_dict().items()}
            for _ in range(STEPS):
                scalars = trainer.run_step()
                losses = [float(v) for k, v in scalars.items() if k.endswith(("loss", "norm"))]
                assert losses and torch.tensor(losses).isfinite().all(), scalars
            built, network = trainer.built, trainer.modules["student"]
            for key, value in network.state_dict().items():
                assert value.dtype == before[key].dtype and value.isfinite().all()
            assert any(not torch.equal(v, before[k]) for k, v in network.state_dict().items())
        where = sampling.Arithmetic("cpu", precision)
        for n in nfes if facts.elastic else [nfe]:
            found = sampling.sample(
                built.student, network, dataset, range(3), n, 0, 3, arithmetic=where
            )
            assert found.x.dtype == torch.float32 and found.x.isfinite().all()
