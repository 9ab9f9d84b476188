"""pi-Flow: policy imitation distillation, data-dependent and data-free (arXiv 2510.14974).

ArcFlow (arXiv 2602.09014) is ``policy=arc``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.piflow.arc import ArcPolicy
from piflow_methods.piflow.heads import ArcNetwork, DXNetwork, GMNetwork, PolicyNetwork
from piflow_methods.piflow.policies import SAMPLING_EPS, DXPolicy, GMPolicy, average_velocity
from torch import Tensor

from piflow_bench.api import (
    SCHEDULES,
    Batch,
    Built,
    Condition,
    Context,
    Facts,
    Guidance,
    Method,
    Optimizer,
    SampleRandom,
    Spec,
    Student,
    Teacher,
    Update,
    among,
    cite,
    flow,
    log_between,
    setting,
)

MODES = {
    "dx-grid": "grid",
    "dx-polynomial": "coefficients",
    "dx-polynomial-as-published": "polynomial",
}
"""`DXPolicy`'s modes; published polynomials take every output for a velocity (METHODS 1.2)."""
MIXTURES = ("gm", "arc")
"""Policies of weighted components, of which some are dropped in rollouts."""
POLICIES = (*MIXTURES, *MODES)
Policy = GMPolicy | DXPolicy | ArcPolicy
ARCFLOW = cite(
    "yang2026arcflow",
    "Yang, Zihan and Tu, Shuyuan and Zhang, Licheng and Dai, Qi and Jiang, Yu-Gang and Wu, Zuxuan",
    "{ArcFlow}: Unleashing 2-Step Text-to-Image Generation via High-Precision Non-Linear Flow "
    "Distillation",
    "2602.09014",
)


@dataclass(frozen=True)
class Config:
    """Settings of pi-Flow; names and defaults follow the paper's ImageNet recipe where they can."""

    policy: str = setting("gm", choices=POLICIES)
    components: int = setting(8, least=1)  # K of a mixture, or N estimates of a DX policy
    data_free: bool = False
    # M supervised states of a segment
    states: int = setting(2, least=1, search=among(1, 2, 4))
    substeps: int = setting(128, least=1)  # policy substeps over the whole unit interval
    # micro-window, in substeps of the segment
    window_substeps: int = setting(0, least=0, search=among(0, 1, 3, 5))
    shift: float = setting(1.0, above=0)  # time warp m
    final_step_scale: float = setting(1.0, above=0)  # length of the last segment over the others'
    # of mixture components, in the policy that rolls out
    dropout: float = setting(0.05, least=0, below=1)
    # steps over which the teacher's share of the path decays to 0
    num_decay: int = setting(0, least=0)
    temperature: float = setting(1.0, above=0)  # at inference, never on the last step
    h: float = setting(0.0, least=0)  # renoising between steps; 0 is deterministic
    loss_scale: float = setting(3.0, above=0)
    init_noise: float = setting(0.05, least=0)  # std of the components' biases at the start
    logstd_inner: int = setting(1024, least=1, search=among(64, 256, 1024, needs="policy=gm"))
    lr: float = setting(5e-5, least=0, search=log_between(5e-6, 5e-4))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.95, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.policy == "arc" and self.components < 2:
            raise ValueError("components=1: policy=arc has at least 2, the first without a rate")


def segments(nfe: int, final_step_scale: float) -> list[tuple[float, float]]:
    """Segments (raw_src, length) from data to noise: index 0 is the one that ends at data."""
    s = final_step_scale
    base = 1 / (nfe - 1 + s)
    return [(s * base, s * base)] + [((i + s) * base, base) for i in range(1, nfe)]


def make_policy(
    config: Config, output: dict[str, Tensor], x: Tensor, t: Tensor, segment: Tensor | float
) -> Policy:
    """The policy that a network output stands for, at source state ``x`` and flow time ``t``."""
    if config.policy == "gm":
        return GMPolicy(
            output["means"], output["logstds"], output["logweights"], x, t, config.shift
        )
    if config.policy == "arc":
        return ArcPolicy(output["means"], output["rates"], output["logweights"], x, t, config.shift)
    return DXPolicy(output["output"], x, t, segment, config.shift, MODES[config.policy])


@dataclass
class PolicyStudent(Student):
    """Samples by one policy rollout per network evaluation."""

    network: Any
    config: Config

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations; settings: temperature, final_step_scale, substeps."""
        c = self.config
        steps = flow.flow_map_schedule(
            nfe,
            c.shift,
            settings.get("final_step_scale", c.final_step_scale),
            c.h,
        )
        x = noise
        for i, step in enumerate(steps):
            t = torch.full((len(x),), step.t_src, device=x.device)
            raw_from = torch.full_like(t, step.raw_src)
            raw_to = torch.full_like(t, step.raw_dst)
            span = step.raw_src - (steps[i + 1].raw_src if i + 1 < nfe else 0.0)
            policy = make_policy(c, self.network(x, t, condition), x, t, span)
            policy = policy.with_eps(SAMPLING_EPS)
            if i + 1 < nfe:
                policy = policy.with_temperature(settings.get("temperature", c.temperature))
            x = policy.rollout(x, raw_from, raw_to, settings.get("substeps", c.substeps))
            if step.m < 1 and i + 1 < nfe:
                x = flow.renoise(x, step, random.normal(i, noise.shape[1:]))
        return x


class PiFlow(Method):
    """pi-Flow (arXiv 2510.14974): a policy without network calls within each step, imitated.

    The network gives a policy for the rest of a step, and is trained on the teacher's
    velocities at the states where its policy leads.
    """

    Config = Config
    facts = Facts(
        family="trajectory imitation",
        needs_data=True,
        backbone=("heads",),
        paper="arXiv:2510.14974",
        citation=cite(
            "chen2025piflow",
            "Chen, Hansheng and Zhang, Kai and Tan, Hao and Guibas, Leonidas and Wetzstein, "
            "Gordon and Bi, Sai",
            "{pi-Flow}: Policy-Based Few-Step Generation via Imitation Distillation",
            "2510.14974",
        ),
        fidelity="the published recipe: policies, rollouts, heads and losses equal the official "
        "code's numbers; averaged weights are evaluated",
        version=1,
    )
    sampling = ("final_step_scale", "temperature", "substeps")

    def facts_for(self) -> Facts:
        """Data-free training needs no data; h > 0 is stochastic; a policy is another paper's."""
        facts = replace(
            self.facts, needs_data=not self.config.data_free, stochastic=self.config.h > 0
        )
        if self.config.policy != "arc":
            return facts
        return replace(
            facts,
            paper="arXiv:2602.09014",
            citation=ARCFLOW,
            fidelity="the published policy, head and start, trained as pi-Flow's others are; one "
            "learning rate, where the official code has a tenth of it for rates",
        )

    def samples_with(self, sampling: Mapping[str, Any], nfe: int, guidance: Guidance) -> str | None:
        """A temperature is of mixtures, substeps are of policies that are not solved exactly."""
        policy = self.config.policy
        if "temperature" in sampling and policy != "gm":
            return "temperature is of policy=gm"
        if "substeps" in sampling and policy == "arc":
            return "policy=arc has no substeps: it is solved exactly"
        return None

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone with a policy head."""
        c = self.config
        backbone: Any = copy.deepcopy(teacher.network).requires_grad_(True)
        network: PolicyNetwork
        if c.policy == "gm":
            network = GMNetwork(backbone, c.components, c.init_noise, c.logstd_inner, spec.seed)
        elif c.policy == "arc":
            network = ArcNetwork(backbone, c.components, c.init_noise, spec.seed)
        else:
            network = DXNetwork(backbone, c.components, c.policy == "dx-polynomial")
        self.nfe = spec.train_nfe or 1
        return Built(
            student=PolicyStudent(network, c),
            modules={"student": network},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One step of policy imitation (METHODS: pi-ID training)."""
        if self.config.data_free:
            yield from self._data_free(batch, context)
        else:
            yield self._data_dependent(batch, context)

    def _data_dependent(self, batch: Batch, context: Context) -> Update:
        c, random = self.config, context.random
        assert batch.x0 is not None
        table = segments(self.nfe, c.final_step_scale)
        # A segment is chosen in proportion to its length.
        lengths = torch.tensor([length for _, length in table])
        place = random.uniform("segment").to(lengths.device)
        index = torch.bucketize(place, lengths.cumsum(0)[:-1], right=True)
        raw = torch.tensor([source for source, _ in table])[index].to(batch.x0)
        length = lengths[index].to(batch.x0)
        t = flow.warp(raw, c.shift)
        x = flow.interpolate(batch.x0, random.normal("noise", batch.shape), t)
        loss, _ = self._segment_loss(x, raw, length, batch.condition, context, "")
        return Update("student", loss, scalars={"loss": loss.detach()})

    def _data_free(self, batch: Batch, context: Context) -> Iterator[Update]:
        x = context.random.normal("noise", batch.shape)
        table = segments(self.nfe, self.config.final_step_scale)
        for i, (raw, length) in reversed(list(enumerate(table))):
            raws, lengths = torch.full((len(x),), raw), torch.full((len(x),), length)
            loss, x = self._segment_loss(
                x, raws.to(x), lengths.to(x), batch.condition, context, f"/{i}"
            )
            loss = loss * length
            yield Update("student", loss, step=i == 0, scalars={"loss": loss.detach() / length})

    def _segment_loss(
        self,
        x_src: Tensor,
        raw_src: Tensor,
        length: Tensor,
        condition: Condition,
        context: Context,
        stream: str,
    ) -> tuple[Tensor, Tensor]:
        """Imitation loss over one segment, and the state at its end under the rolled-out policy."""
        c, random = self.config, context.random
        t_src = flow.warp(raw_src, c.shift)
        output = context.networks["student"](x_src, t_src, condition)
        policy = make_policy(c, output, x_src, t_src, length)
        rolled = policy.detach()
        if c.policy in MIXTURES and c.dropout > 0:
            rolled = rolled.with_dropout(
                random.uniform(f"dropout{stream}", (c.components,)) < c.dropout
            )
        substep = length / (length * c.substeps).round().clamp(min=1)
        window = torch.minimum(c.window_substeps * substep, length)
        span = length - window
        teacher_share = 1 - min(context.step, c.num_decay) / c.num_decay if c.num_decay else 0.0

        m = c.states
        places = random.uniform(f"student intervals{stream}", (m,)).sort(1).values.to(x_src)
        gaps = torch.diff(places, dim=1, prepend=torch.zeros_like(places[:, :1]))
        student_gaps = gaps * ((1 - teacher_share) * span)[:, None]
        cuts = (
            random.uniform(f"teacher intervals{stream}", (max(m - 1, 0),)).sort(1).values.to(x_src)
        )
        edges = torch.cat(
            [torch.zeros_like(places[:, :1]), cuts, torch.ones_like(places[:, :1])], 1
        )
        teacher_gaps = torch.diff(edges, dim=1) * (teacher_share * span)[:, None]

        x, raw = x_src, raw_src
        losses = []
        for j in range(m):
            with torch.no_grad():
                raw_a = raw - student_gaps[:, j]
                x_a = rolled.rollout(x, raw, raw_a, c.substeps) if teacher_share < 1 else x
                t_a = flow.warp(raw_a, c.shift)
                target = context.teacher(x_a, t_a, condition)
                raw_b = (raw_a - teacher_gaps[:, j]).clamp(min=0)
            raw_end = (raw_b - window).clamp(min=0)
            mean = average_velocity(policy, x_a, raw_a, raw_end, c.substeps)
            losses.append((target - mean).square().mean() / 2)
            x = x_a + target * flow.expand(flow.warp(raw_b, c.shift) - t_a, x_a)
            raw = raw_b
        loss = c.loss_scale * torch.stack(losses).mean()
        with torch.no_grad():
            end = x
            if c.data_free:
                end = rolled.rollout(x, raw, raw_src - length, c.substeps)
        return loss, end
