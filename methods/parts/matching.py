"""The direction in which distribution matching moves samples, and what papers change of it.

All estimates of data x0 are of noised samples x_t. DMD2 moves a sample along -g, where g is the
difference of the fake score's estimate and the guided teacher's over ``mean|x - teacher's|``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from piflow_bench.api import Condition, Context, Teacher, flow

DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse-kl": torch.ones_like,
    "kl": lambda ratio: ratio,
    "js": lambda ratio: 1 - 1 / (1 + ratio),
    "softened-reverse-kl": lambda ratio: 1 / (1 + ratio),
    "squared-hellinger": torch.sqrt,
    "jeffreys": lambda ratio: 1 + ratio,
    "neyman": lambda ratio: 1 / ratio,
}
"""Weights of the direction by the ratio of the densities, real over fake (f-distill,
arXiv 2502.15681, table 1); reverse-kl is DMD's."""
LOGITS, RATIOS = (-10.0, 10.0), (0.1, 20.0)
"""Between which f-distill cuts the discriminator's logits and the ratios."""
BINS = 10


def matching_gradient(x: Tensor, teacher_x0: Tensor, fake_x0: Tensor) -> Tensor:
    """The DMD gradient ``(f_fake - f_real) / mean|x - f_real|`` per sample; nan becomes 0."""
    scale = (x - teacher_x0).abs().flatten(1).mean(1)
    return torch.nan_to_num((fake_x0 - teacher_x0) / flow.expand(scale, x))


def matching_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """``1/2 mean |x - sg(x - g)|^2``, whose gradient in x is g over the number of elements."""
    return (x - (x - gradient).detach()).square().mean() / 2


def matched(x: Tensor, t: Tensor, condition: Condition, context: Context) -> tuple[Tensor, Tensor]:
    """The gradient of samples x noised to t ``(B,)``, and the loss that has it.

    Args:
        x: samples ``(B, *sample)`` of the student.
        t: noise levels at which teacher and fake score are asked.
        condition: of the samples.
        context: has the network "fake_score", and draws the noise.
    """
    noisy = flow.interpolate(x, context.random.normal("matching noise", x.shape[1:]), t)
    with torch.no_grad():
        real, fake = (
            flow.x0_from_velocity(noisy, network(noisy, t, condition), t)
            for network in (context.teacher, context.networks["fake_score"])
        )
        gradient = matching_gradient(x, real, fake)
    return gradient, matching_loss(x, gradient)


def below(teacher: Teacher, level: float) -> Teacher:
    """The teacher with its guidance at times up to ``level`` alone (1.x-Distill, 2604.04018)."""
    guidance = teacher.guidance
    return teacher.guided(replace(guidance, high=min(guidance.high, level)))


def decoupled_x0(
    teacher: Teacher,
    noisy: Tensor,
    t: Tensor,
    noisier: Tensor,
    at: Tensor,
    condition: Condition,
) -> Tensor:
    """The teacher's estimate, its guidance asked at other times (Decoupled-DMD, 2511.22677, eq. 6).

    ``x0_c(x_t) + [x0_guided - x0_c](x_s)``: where s = t with the same noise, the guided teacher's.

    Args:
        teacher: the guided one.
        noisy: samples noised to ``t`` ``(B,)``, at which the conditional estimate is asked.
        t: see ``noisy``.
        noisier: the same samples noised to ``at`` ``(B,)``, at which guidance is.
        at: see ``noisier``.
        condition: of all.
    """
    plain = flow.x0_from_velocity(noisy, teacher.conditional(noisy, t, condition), t)
    guidance = teacher.guidance
    if not guidance.on:
        return plain
    both = teacher.conditional(
        torch.cat([noisier] * 2), torch.cat([at] * 2), condition.cat(condition.null())
    )
    u, empty = both.chunk(2)
    # x0 = x - t u: a difference of velocities is one of estimates, times -t.
    pull = -flow.expand(at, u) * (guidance(u, empty) - u)
    return plain + pull * flow.expand(guidance.holds(at), u)


def projected(gradient: Tensor, error: Tensor) -> Tensor:
    """``d - (<d, r> / |r|^2) r`` per sample: what of d is orthogonal to r (PDMD, 2609.35768).

    ``error`` r is the fake score's estimate less the sample, taken for the error of the former.
    """
    d, r = gradient.flatten(1), error.flatten(1)
    share = (d * r).sum(1) / r.square().sum(1)
    return gradient - flow.expand(torch.nan_to_num(share), gradient) * error


class RatioWeights(nn.Module):
    """Weights h(r) of f-distill, each over the mean of its noise level (arXiv 2502.15681).

    The ratio r is the exponential of the discriminator's logit. The means of ``BINS`` noise levels
    are those of the steps before, a running one: so a row's weight does not depend on how a batch
    is divided over processes and micro-batches.
    """

    def __init__(self, divergence: str, decay: float = 0.9) -> None:
        super().__init__()
        self.divergence, self.decay = divergence, decay
        self.register_buffer("means", torch.ones(BINS))
        self._new: list[tuple[Tensor, Tensor]] = []

    def forward(self, logits: Tensor, t: Tensor, context: Context) -> Tensor:
        """Weights ``(B,)`` of the logits ``(B,)``, high for real data, of samples noised to t."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ratio = logits.clamp(*LOGITS).exp().clamp(*RATIOS)
        h = DIVERGENCES[self.divergence](ratio)
        bins = (t * BINS).long().clamp(0, BINS - 1)
        weights = h / self.means[bins]
        self._new.append((h, bins))
        if context.last:
            self._keep(context)
        return weights

    def _keep(self, context: Context) -> None:
        """Take in what all processes saw in this step."""
        h, bins = (context.gather(torch.cat(parts)) for parts in zip(*self._new, strict=True))
        h = h.to(self.means)
        count = torch.zeros_like(self.means).index_add_(0, bins, torch.ones_like(h))
        total = torch.zeros_like(self.means).index_add_(0, bins, h)
        seen = count > 0
        mean = total / count.clamp(min=1)
        kept = self.decay * self.means + (1 - self.decay) * mean
        self.means.copy_(torch.where(seen, kept, self.means))
        self._new = []
