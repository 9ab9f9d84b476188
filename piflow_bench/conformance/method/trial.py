"""A configured method on a stand-in: networks, training runs and samples, made fresh."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench.conformance.method.watched import Watched
from piflow_bench.conformance.results import require
from piflow_bench.conformance.stand_ins import StandIn
from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.data import TensorRows
from piflow_bench.contracts.method import Built, Facts, Method, Spec, no_reward
from piflow_bench.contracts.reward import Reward
from piflow_bench.contracts.student import Student
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.randomness import SampleRandom
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import TrainingData

NFES = (1, 2, 4)
LEAST, STEPS, SEED = 8, 6, 3


def small(samples: Tensor, condition: Condition) -> Tensor:
    """A reward of samples that are near 0."""
    return -samples.flatten(1).square().mean(1)


class Trial:
    """One configured method on one stand-in: what its tests work on, made fresh for each."""

    def __init__(self, cls: type[Method], config: Any, stand_in: StandIn) -> None:
        self.cls, self.config, self.stand_in = cls, config, stand_in
        self.dataset = stand_in.dataset
        method = cls(config)
        self.facts: Facts = method.facts_for()
        group = max(1, self.facts.group)
        self.batch = 2 * group * -(-LEAST // (2 * group))  # two halves of whole groups
        self.served = [n for n in NFES if method.serves(n) is None]
        if not self.served:
            self.served = [n for n in range(1, 65) if method.serves(n) is None][:2]

    def spec(self, train_nfe: int | None, batch: int) -> Spec:
        """What the pipeline would build for."""

        def fresh() -> nn.Module:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                return self.stand_in.fresh_network()

        condition = self.dataset.train_condition
        return Spec(self.dataset.shape, train_nfe, batch, fresh, condition, seed=SEED)

    def built(self, teacher: Teacher, nfe: int | None = None) -> Built:
        """The method built anew."""
        require(bool(self.served), "serves no NFE between 1 and 64")
        train_nfe = None if self.facts.elastic else nfe or self.train_nfe
        torch.manual_seed(SEED)
        return self.cls(self.config).build(teacher, self.spec(train_nfe, self.batch))

    @property
    def train_nfe(self) -> int:
        """The NFE of the training tests: 2 where it is served, so that steps differ."""
        return 2 if 2 in self.served else self.served[-1]

    def trainer(
        self,
        micro_batch: int | None = None,
        data: Tensor | None = None,
        precision: str = "fp32",
        reward: Reward = small,
    ) -> Watched:
        """A training run at its start; of the rewards that methods name it is given ``reward``."""
        x0 = self.dataset.train if data is None else data
        trainer = Watched(
            self.cls(self.config),
            self.stand_in.teacher(0),
            TrainingData(
                TensorRows(x0),
                self.dataset.train_condition,
                reward if self.facts.reward else no_reward,
            ),
            self.spec(None if self.facts.elastic else self.train_nfe, self.batch),
            TrainingSettings(batch=self.batch, precision=precision, warmup=2),
            Budget("images", float(self.batch * STEPS), (1.0,)),
            SEED,
            Scale(micro_batch=micro_batch),
        )
        trainer.watch()
        return trainer

    def after(self, steps: int, **options: Any) -> Watched:
        """A training run after some steps."""
        trainer = self.trainer(**options)
        for _ in range(steps):
            trainer.run_step()
        return trainer

    def network(self, built: Built, teacher: Teacher) -> Any:
        """What the pipeline binds to the student when it samples."""
        if teacher.closed_form and not self.facts.trains:
            return teacher.field
        return built.modules["student"].eval()

    @torch.no_grad()
    def draw(
        self, student: Student, network: Any, nfe: int, rows: int, step_seed: int = 0
    ) -> Tensor:
        """Samples 0..rows-1; ``step_seed`` changes every draw but the initial noise."""
        indices = range(rows)
        noise = SampleRandom(0, indices).noise(self.dataset.shape)
        condition = self.dataset.conditions(0, indices)
        random = SampleRandom(step_seed, indices)
        return student.bind(network).sample(noise, condition, nfe, random)
