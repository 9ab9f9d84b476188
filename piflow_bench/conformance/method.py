"""The contract of a method as tests; `check` runs them.

Every test works on fresh objects, so that none depends on another. They are one list in one file,
however long: what a method must do can be read from top to bottom.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench import sampling
from piflow_bench.conformance.plugin import check_settings
from piflow_bench.conformance.results import Failure, Skip, Test, require
from piflow_bench.conformance.stand_ins import StandIn
from piflow_bench.contracts.data import TensorRows
from piflow_bench.contracts.method import Built, Facts, Method, Spec, Update
from piflow_bench.contracts.student import Student
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.costs.flops import Handle, Meter
from piflow_bench.errors import nearest
from piflow_bench.randomness import SampleRandom
from piflow_bench.tracks import NONE, TRACKS
from piflow_bench.training import state
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings
from piflow_bench.training.trainer import Trainer, TrainingData

NFES = (1, 2, 4)
BATCH, STEPS, SEED = 8, 6, 3
SAMPLE_TOLERANCE = 1e-4
"""Absolute and relative: between samples of different batch sizes."""
GRADIENT_TOLERANCE = 5e-3
"""Of a gradient's norm: between one batch and the same batch in two parts."""


# ------------------------------------------------------------------ comparing


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.detach().clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, list[Tensor]]:
    return {n: [p.detach().clone() for p in m.parameters()] for n, m in modules.items()}


def _buffers(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{n}.{k}": b.clone() for n, m in modules.items() for k, b in m.named_buffers()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str | None:
    """The first key whose values differ in any bit."""
    for key in sorted(a.keys() | b.keys()):
        if key not in a or key not in b or not _same(a[key], b[key]):
            return key
    return None


# ------------------------------------------------------------------ training, watched


class _Watched(Trainer):
    """A training run that notes gradients, and what each update changes that it should not."""

    def watch(self) -> None:
        """Start to look."""
        self.reached_modules: dict[str, set[str]] = {}
        self.gradients: list[tuple[str, Tensor]] = []
        self.before = _parameters(self.modules)

    def _optimizer_step(self, name: str, progress: float) -> dict[str, Any]:
        reached = self.reached_modules.setdefault(name, set())
        own = self.built.optimizers[name].modules
        for module in own:
            grads = [p.grad for p in self.modules[module].parameters() if p.grad is not None]
            if any(bool(g.count_nonzero()) for g in grads):
                reached.add(module)
        flat = [p.grad.flatten() for p in self.trained[name] if p.grad is not None]
        self.gradients.append((name, torch.cat(flat).clone() if flat else torch.zeros(1)))
        for p in self.teacher.network.parameters():
            require(p.grad is None, f"the loss of update '{name}' sends gradient to the teacher")
            require(
                not p.requires_grad,
                f"the teacher's parameters require gradient during update '{name}': train a copy "
                "(copy.deepcopy(teacher.network))",
            )
        scalars = super()._optimizer_step(name, progress)
        after = _parameters(self.modules)
        others = {m for o in self.built.optimizers.values() for m in o.modules} - set(own)
        for module in sorted(others):
            require(
                all(map(torch.equal, self.before[module], after[module])),
                f"update '{name}' changes the weights of '{module}', which is not its optimizer's",
            )
        self.before = after
        return scalars


# ------------------------------------------------------------------ the tests


class Suite:
    """The tests of one configured method on one stand-in."""

    def __init__(self, cls: type[Method], config: Any, stand_in: StandIn) -> None:
        self.cls, self.config, self.stand_in = cls, config, stand_in
        self.dataset = stand_in.dataset
        method = cls(config)
        self.facts: Facts = method.facts_for()
        self.served = [n for n in NFES if method.serves(n) is None]
        if not self.served:
            self.served = [n for n in range(1, 65) if method.serves(n) is None][:2]

    def tests(self) -> list[Test]:
        """Name, function and the tests that must have passed before, in order."""
        sampled: list[Test] = [
            ("build", self.build, ()),
            ("teacher untouched by build", self.untouched, ("build",)),
            ("samples", self.samples, ("build",)),
            ("honest NFE", self.honest, ("samples",)),
            ("reproducible samples", self.reproducible, ("samples",)),
            ("bfloat16 samples", self.rounded_samples, ("samples",)),
        ]
        if not self.facts.trains:
            return sampled
        return [
            *sampled,
            ("training step", self.training_step, ("build",)),
            ("gradients", self.gradients, ("training step",)),
            ("determinism", self.determinism, ("training step",)),
            ("save, load, resume", self.resume, ("training step", "determinism")),
            ("division of a batch", self.division, ("training step", "determinism")),
            ("declared needs", self.needs, ("training step", "determinism")),
            ("bfloat16 training", self.rounded_training, ("training step",)),
        ]

    # -------------------------------------------------------------- fresh objects

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
        return self.cls(self.config).build(teacher, self.spec(train_nfe, BATCH))

    @property
    def train_nfe(self) -> int:
        """The NFE of the training tests: 2 where it is served, so that steps differ."""
        return 2 if 2 in self.served else self.served[-1]

    def trainer(
        self,
        micro_batch: int | None = None,
        data: Tensor | None = None,
        precision: str = "fp32",
    ) -> _Watched:
        """A training run at its start."""
        x0 = self.dataset.train if data is None else data
        trainer = _Watched(
            self.cls(self.config),
            self.stand_in.teacher(0),
            TrainingData(TensorRows(x0), self.dataset.train_condition),
            self.spec(None if self.facts.elastic else self.train_nfe, BATCH),
            TrainingSettings(batch=BATCH, precision=precision, warmup=2),
            Budget("images", float(BATCH * STEPS), (1.0,)),
            SEED,
            Scale(micro_batch=micro_batch),
        )
        trainer.watch()
        return trainer

    def after(self, steps: int, **options: Any) -> _Watched:
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

    # -------------------------------------------------------------- building and sampling

    def build(self) -> None:
        """Built, Student, and names that fit together."""
        built = self.built(self.stand_in.teacher(0))
        require(isinstance(built, Built), f"build() returned {type(built).__name__}, not Built")
        require(
            isinstance(built.student, Student),
            f"Built.student is {type(built.student).__name__}, not a Student",
        )
        modules = built.modules
        for name, module in modules.items():
            require(isinstance(module, nn.Module), f"modules['{name}'] is not a torch Module")
        require("student" in modules, f"modules has no 'student' (it has {', '.join(modules)})")
        for name, optimizer in built.optimizers.items():
            for key in optimizer.modules:
                require(
                    key in modules,
                    f"optimizer '{name}' names module '{key}'; {nearest(key, list(modules))}",
                )
        for key in built.ema:
            require(key in modules, f"ema names module '{key}'; {nearest(key, list(modules))}")
        if self.facts.trains:
            named = {m for o in built.optimizers.values() for m in o.modules}
            require("student" in named, "no optimizer trains 'student', though facts.trains")

    def untouched(self) -> None:
        """Build copies the teacher instead of changing it."""
        teacher = self.stand_in.teacher(0)
        before = _state({"teacher": teacher.network})
        built = self.built(teacher)
        changed = _difference(before, _state({"teacher": teacher.network}))
        require(changed is None, f"build() changes the teacher: {changed}")
        if not self.facts.trains:
            return
        require(
            not any(p.requires_grad for p in teacher.network.parameters()),
            "build() makes the teacher's parameters require gradient: train a copy of "
            "teacher.network (copy.deepcopy)",
        )
        theirs = {p.untyped_storage().data_ptr() for p in teacher.network.parameters()}
        for name, module in built.modules.items():
            for key, p in module.named_parameters():
                require(
                    not p.requires_grad or p.untyped_storage().data_ptr() not in theirs,
                    f"{name}.{key} is trained and shares its memory with the teacher: copy it",
                )

    def samples(self) -> str:
        """Shape and finiteness at every served NFE."""
        for nfe in self.served:
            teacher = self.stand_in.teacher(0)
            built = self.built(teacher, nfe)
            x = self.draw(built.student, self.network(built, teacher), nfe, 4)
            expected = (4, *self.dataset.shape)
            require(isinstance(x, Tensor), f"sample(nfe={nfe}) returned {type(x).__name__}")
            require(
                tuple(x.shape) == expected,
                f"sample(nfe={nfe}) returned shape {tuple(x.shape)}, expected {expected}",
            )
            require(bool(torch.isfinite(x).all()), f"sample(nfe={nfe}) is not finite")
        return f"NFE {', '.join(map(str, self.served))}"

    def honest(self) -> None:
        """Exactly nfe evaluations, and no network behind the counter's back."""
        for nfe in self.served:
            teacher = self.stand_in.teacher(0)
            built = self.built(teacher, nfe)
            try:
                sampling.audit(built.student, self.network(built, teacher), self.dataset, nfe, {})
            except sampling.DishonestNFE as error:
                raise Failure(str(error)) from error

    def reproducible(self) -> None:
        """The same bits twice, the same samples in any batch, stochastic as declared."""
        for nfe in self.served:
            teacher = self.stand_in.teacher(0)
            built = self.built(teacher, nfe)
            network = self.network(built, teacher)
            whole = self.draw(built.student, network, nfe, 8)
            require(
                torch.equal(whole, self.draw(built.student, network, nfe, 8)),
                f"sample(nfe={nfe}) gives other samples when called again: draw from `random` only",
            )
            part = self.draw(built.student, network, nfe, 3)
            require(
                torch.allclose(whole[:3], part, rtol=SAMPLE_TOLERANCE, atol=SAMPLE_TOLERANCE),
                f"sample(nfe={nfe}) depends on the batch size: samples 0-2 differ by up to "
                f"{(whole[:3] - part).abs().max():.2g} between batches of 8 and 3",
            )
            other = self.draw(built.student, network, nfe, 8, step_seed=1)
            stochastic, declared = not torch.equal(whole, other), self.facts.stochastic_at(nfe)
            require(
                stochastic == declared,
                f"sample(nfe={nfe}) {'uses' if stochastic else 'does not use'} draws beside its "
                f"initial noise, but facts.stochastic is {self.facts.stochastic}",
            )

    def rounded_samples(self) -> None:
        """Samples under bfloat16 autocast: finite, and not themselves rounded."""
        for nfe in self.served:
            teacher = self.stand_in.teacher(0)
            built = self.built(teacher, nfe)
            network = Handle("student", self.network(built, teacher), Meter())
            with sampling.Arithmetic(precision="bf16").autocast():
                x = self.draw(built.student, network, nfe, 4)
            require(
                bool(torch.isfinite(x).all()),
                f"sample(nfe={nfe}) is not finite under bfloat16 autocast",
            )
            require(
                x.dtype == torch.float32,
                f"sample(nfe={nfe}) returned {x.dtype} for float32 noise under bfloat16 autocast: "
                "keep what is added up in the noise's precision (x.to(noise))",
            )

    # -------------------------------------------------------------- training

    def training_step(self) -> str:
        """Updates of the right kind."""
        trainer = self.trainer()
        optimizers = list(trainer.optimizers)
        names: list[str] = []
        steps = False
        for batch, context in trainer.micro_batches():
            for update in trainer.method.training_step(batch, context):
                require(
                    isinstance(update, Update),
                    f"training_step() yielded {type(update).__name__}, not Update",
                )
                name, loss = update.optimizer, update.loss
                require(
                    name in optimizers,
                    f"an update names optimizer '{name}'; {nearest(name, optimizers)}",
                )
                require(
                    isinstance(loss, Tensor) and loss.ndim == 0,
                    f"the loss of update '{name}' is not a scalar tensor",
                )
                value = float(loss.detach())
                require(math.isfinite(value), f"the loss of update '{name}' is {value}")
                require(
                    loss.requires_grad, f"the loss of update '{name}' does not require gradient"
                )
                for key, scalar in update.scalars.items():
                    try:
                        float(scalar)
                    except (TypeError, ValueError) as error:
                        raise Failure(f"scalars['{key}'] is not a number: {error}") from error
                loss.backward()
                context.thaw()
                names.append(name)
                steps = steps or update.step
        require(bool(names), "training_step() yielded no update")
        require(steps, "no update of the first training step has step=True")
        return "updates: " + ", ".join(names)

    def gradients(self) -> None:
        """They reach every trained module and neither the teacher nor others' modules."""
        trainer = self.trainer()
        teacher = {"teacher": trainer.teacher.network}
        before = _state(teacher)
        for _ in range(STEPS):
            trainer.run_step()
            changed = _difference(before, _state(teacher))
            require(changed is None, f"training changes the teacher's weights: {changed}")
        for p in trainer.teacher.network.parameters():
            require(
                p.grad is None and not p.requires_grad,
                "training leaves gradients, or the wish for them, on the teacher's parameters",
            )
        for name, optimizer in trainer.built.optimizers.items():
            require(
                name in trainer.reached_modules,
                f"optimizer '{name}' is never stepped in {STEPS} steps",
            )
            for module in optimizer.modules:
                require(
                    module in trainer.reached_modules[name],
                    f"no gradient reaches '{module}' from updates '{name}' in {STEPS} steps",
                )

    def determinism(self) -> None:
        """Two runs of one seed give the same bits."""
        changed = _difference(_state(self.after(3).modules), _state(self.after(3).modules))
        require(
            changed is None,
            f"two runs of one seed differ after 3 steps (first: {changed}): draw from "
            "context.random only, and keep no state outside the method and its modules",
        )

    def resume(self) -> None:
        """An interrupted run ends in the same bits; weights load into a new build."""
        from safetensors.torch import load, save

        whole = self.after(STEPS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            state.save(self.after(STEPS // 2), path)
            resumed = self.trainer()
            state.load(resumed, path)
            resumed.watch()
        for _ in range(STEPS - STEPS // 2):
            resumed.run_step()
        changed = _difference(_state(whole.modules), _state(resumed.modules))
        require(
            changed is None,
            f"{STEPS} steps differ from {STEPS // 2} + {STEPS // 2} with save and load between "
            f"(first: {changed}): state outside modules' parameters and buffers is lost",
        )
        weights = whole.weights()
        changed = _difference(weights, resumed.weights())
        require(changed is None, f"the resumed run's averaged weights differ (first: {changed})")
        stored = load(save(weights))
        whole.modules["student"].load_state_dict(weights)
        built = self.built(self.stand_in.teacher(0))
        built.modules["student"].load_state_dict(stored)
        trained, again = (
            self.draw(b.student, b.modules["student"].eval(), self.train_nfe, 4)
            for b in (whole.built, built)
        )
        require(
            torch.equal(trained, again),
            "weights loaded into a new build give other samples: the student keeps state outside "
            "modules['student']",
        )

    def division(self) -> None:
        """Two half batches give the gradients of the whole batch."""
        whole = self.trainer()
        before = _buffers(whole.modules)
        whole.run_step()
        filled = _difference(before, _buffers(whole.modules))
        parts = self.after(1, micro_batch=BATCH // 2)
        for (name, a), (_, b) in zip(whole.gradients, parts.gradients, strict=True):
            error = float((a - b).norm() / a.norm().clamp(min=1e-12))
            if error > GRADIENT_TOLERANCE and filled is not None:
                raise Skip(f"buffer {filled} changes within a step, so it sees the parts in turn")
            require(
                error <= GRADIENT_TOLERANCE,
                f"the gradient of update '{name}' changes by {error:.1%} when the batch is divided "
                "in two: losses must be means over rows, and draws must come from context.random",
            )

    def needs(self) -> str:
        """What is declared is what can be observed."""
        facts = self.facts
        trainer = self.after(3)
        auxiliary = {
            name
            for name, module in trainer.modules.items()
            if name != "student" and any(True for _ in module.parameters())
        }
        require(
            auxiliary == set(facts.auxiliary),
            f"facts.auxiliary is {sorted(facts.auxiliary)}, the networks beside the student are "
            f"{sorted(auxiliary)}",
        )
        rows = trainer.meter.rows
        if facts.needs_data:
            other = self.after(3, data=-self.dataset.train.flip(0))
            require(
                _difference(_state(trainer.modules), _state(other.modules)) is not None,
                "facts.needs_data is True, but other data give the same training",
            )
        if not facts.needs_teacher:
            used = sum(n for key, n in rows.items() if key.startswith("teacher/"))
            require(
                not used, f"facts.needs_teacher is False, but the teacher is evaluated {used} times"
            )
            first, second = (
                _state(self.built(self.stand_in.teacher(seed)).modules) for seed in (0, 1)
            )
            require(
                _difference(first, second) is None,
                "facts.needs_teacher is False, but build() starts from the teacher's weights",
            )
        require(
            facts.jvp == "exact" or not any(key.endswith("/jvp") for key in rows),
            f"facts.jvp is '{facts.jvp}', but a network is differentiated in forward mode",
        )
        return "evaluated: " + ", ".join(sorted({key.split("/")[0] for key in rows}))

    def rounded_training(self) -> None:
        """A few steps under bfloat16 autocast: dtypes fit, and all stays finite."""
        trainer = self.after(3, precision="bf16")
        for name, gradient in trainer.gradients:
            require(
                bool(torch.isfinite(gradient).all()),
                f"the gradient of update '{name}' is not finite under bfloat16 autocast",
            )
        for name, module in trainer.modules.items():
            for key, value in module.state_dict().items():
                require(
                    not value.is_floating_point() or bool(torch.isfinite(value).all()),
                    f"{name}.{key} is not finite after 3 steps under bfloat16 autocast",
                )


# ------------------------------------------------------------------ declarations


def check_config(cls: Any) -> None:
    """A method's Config is a dataclass with defaults."""
    config = check_settings(cls)
    for name in cls.sampling:
        require(
            name in {field.name for field in fields(config)},
            f"sampling names '{name}', which Config has not: declare it in Sampling, with bounds",
        )


def check_facts(facts: Any) -> None:
    """Facts are of the right types and kinds."""
    require(isinstance(facts, Facts), "facts must be a Facts")
    choices = {
        "track": TRACKS,
        "jvp": ("none", "exact", "finite difference"),
        "guidance": ("baked", "at inference", "none"),
    }
    for key, valid in choices.items():
        value = getattr(facts, key)
        require(value in valid, f"facts.{key} is {value!r}: must be one of {', '.join(valid)}")
    kinds: dict[type, tuple[str, ...]] = {
        str: ("family", "paper", "target"),
        bool: ("trains", "needs_data", "needs_teacher", "elastic", "stochastic"),
        int: ("version",),
    }
    for kind, keys in kinds.items():
        for key in keys:
            value = getattr(facts, key)
            require(type(value) is kind, f"facts.{key} is {value!r}: must be {kind.__name__}")
    require(bool(facts.family), "facts.family is empty")
    require(
        isinstance(facts.auxiliary, tuple) and all(isinstance(n, str) for n in facts.auxiliary),
        f"facts.auxiliary is {facts.auxiliary!r}: must be a tuple of names",
    )
    nfes = facts.nfes
    valid_nfes = isinstance(nfes, tuple) and nfes and all(type(n) is int and n > 0 for n in nfes)
    require(
        nfes is None or bool(valid_nfes),
        f"facts.nfes is {nfes!r}: must be None or a tuple of positive integers",
    )
    require(
        facts.trains == (facts.track != NONE),
        f"facts.trains is {facts.trains} on track '{facts.track}': only what is not trained is on "
        "track 'none'",
    )
