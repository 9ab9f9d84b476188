"""The plain teacher with few solver steps: the baseline every student must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from piflow_methods.parts.spending import spent
from torch import Tensor

from piflow_bench.api import (
    Built,
    Condition,
    Facts,
    Guidance,
    Method,
    SampleRandom,
    Spec,
    Student,
    Teacher,
    flow,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of a plain teacher sampler."""

    solver: str = setting("euler", choices=tuple(flow.SOLVERS))
    guided: bool = False  # guidance costs two evaluations a step
    shift: float = setting(1.0, above=0)  # time warp of the grid
    # the last time before 0, to which the others are stretched; 0: as they are (Qwen-Image: .02)
    terminal: float = setting(0.0, least=0, below=1, added=True)


@dataclass(frozen=True)
class Sampling:
    """Settings of a plain teacher sampler, other than those of the experiment's teacher."""

    guidance: float = setting(1.0, least=0)  # scale, in place of the dataset's


def plan(
    solver: str,
    evaluations: int,
    guidance: Guidance | None = None,
    shift: float = 1.0,
    terminal: float = 0.0,
) -> tuple[int, dict[str, Any]]:
    """Steps and options with which ``solver`` spends exactly ``evaluations``.

    Heun spends two a step and one on the last, so an even number starts with an Euler step.

    Raises:
        ValueError: if no number of steps does: guidance on a part of time makes gaps.
    """
    ways: list[dict[str, Any]] = [{}] + ([{"euler_first": True}] if solver == "heun" else [])
    for steps in range(1, evaluations + 1):
        for options in ways:
            cost = spent(solver, steps, options, guidance or Guidance(), shift, terminal)
            if cost == evaluations:
                return steps, options
    raise ValueError(f"no number of {solver} steps spends exactly {evaluations} evaluations")


def _guided_by(sampling: Mapping[str, Any], guidance: Guidance) -> Guidance:
    """The guidance, of the scale that sampling names, if any."""
    return replace(guidance, scale=float(sampling.get("guidance", guidance.scale)))


@dataclass
class TeacherStudent(Student):
    """A teacher as a student: ``network`` is its conditional velocity."""

    network: Callable[..., Tensor]
    teacher: Teacher
    config: Config

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Solve the ODE in ``nfe`` evaluations; settings: see ``Sampling``."""
        own = self.teacher.guidance if self.config.guided else Guidance()
        guidance = _guided_by(settings, own)
        teacher = self.teacher.bind(self.network).guided(guidance)
        c = self.config
        steps, options = plan(c.solver, nfe, guidance, c.shift, c.terminal)
        times = flow.time_grid(steps, c.shift, terminal=c.terminal)
        solver = flow.SOLVERS[c.solver]
        return solver(lambda x, t: teacher(x, t, condition), noise, times, **options)


class TeacherSampler(Method):
    """The teacher itself with few solver steps, the baseline of all; nothing is trained.

    What a student has to beat at the same number of evaluations.
    """

    Config = Config
    facts = Facts(
        family="solver",
        track="none",
        trains=False,
        elastic=True,
        guidance="at inference",
        fidelity="the solvers' published update rules",
    )
    Sampling = Sampling

    def facts_for(self) -> Facts:
        """Guidance is off unless asked for."""
        return self.facts if self.config.guided else replace(self.facts, guidance="none")

    def serves(self, nfe: int) -> str | None:
        """Guidance needs an even number of evaluations."""
        if self.config.guided and nfe % 2:
            return "spends two evaluations a guided step, so it serves even NFEs"
        return None

    def samples_with(self, sampling: Mapping[str, Any], nfe: int, guidance: Guidance) -> str | None:
        """Guidance is of a teacher that is guided; where it holds, a step costs two evaluations."""
        c = self.config
        if not c.guided:
            named = "guidance" in sampling
            return "guidance is of a teacher whose settings have guided=true" if named else None
        try:
            plan(c.solver, nfe, _guided_by(sampling, guidance), c.shift, c.terminal)
        except ValueError as error:
            return f"{error}, guided at a part of time; choose other nfes or times"
        return None

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's field behind the student interface."""
        student = TeacherStudent(teacher.field, teacher, self.config)
        return Built(student=student, modules={"student": teacher.network}, optimizers={}, ema=())
