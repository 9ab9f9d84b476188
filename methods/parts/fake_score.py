"""The online score of a student's samples, with a discriminator on its features (DMD2)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from piflow_bench.api import Condition, Context, flow


def _normalised(dim: int) -> list[nn.Module]:
    # 32 groups as the paper's, fewer where a group would have less than eight channels.
    most = min(32, max(dim // 8, 1))
    groups = next(n for n in range(most, 0, -1) if dim % n == 0)
    return [nn.GroupNorm(groups, dim), nn.SiLU()]


def discriminator(dim: int, rows: int, columns: int) -> nn.Sequential:
    """Logits ``(B, 1, 1, 1)`` of feature maps ``(B, dim, rows, columns)``.

    The paper's stack for ImageNet 64: convolutions of stride 2 down to 4 x 4 elements, one over all
    that is left, and a linear layer, with group norm and SiLU between them.
    """
    layers: list[nn.Module] = []
    while min(rows, columns) > 4:
        layers += [nn.Conv2d(dim, dim, 4, 2, 1), *_normalised(dim)]
        rows, columns = rows // 2, columns // 2
    layers += [nn.Conv2d(dim, dim, (rows, columns)), *_normalised(dim), nn.Conv2d(dim, 1, 1)]
    return nn.Sequential(*layers)


class FakeScore(nn.Module):
    """Velocity network of the student's samples, with a discriminator on its features.

    The paper's models the mixture of all steps' estimates, so that only the mixture is matched to
    the teacher: in short trainings the last step makes up for what the first ones lack. With
    ``knows_step`` the time at which the student was evaluated is a second time input.

    Args:
        network: the backbone.
        share: of its blocks, those the discriminator looks through (at least one); None: no
            discriminator.
        knows_step: see above.
    """

    def __init__(self, network: Any, share: float | None, knows_step: bool) -> None:
        super().__init__()
        self.network, self.knows_step = network, knows_step
        if knows_step:
            network.add_duration()
        self.looks_through = 0 if share is None else max(int(share * network.depth), 1)
        self.head = None
        if share is not None:
            self.head = discriminator(*network.feature_shape(self.looks_through))

    def forward(
        self, x: Tensor, t: Tensor, condition: Condition, step: Tensor, judge: bool = False
    ) -> Tensor:
        """Velocity ``(B, *sample)``; or logits ``(B,)``, high for real data, if it is to judge.

        Args:
            x: noised samples.
            t: their noise levels ``(B,)``.
            condition: their conditions.
            step: times ``(B,)`` of the student's evaluations that made the samples.
            judge: whether the discriminator is asked; blocks behind it are not computed.
        """
        duration = step if self.knows_step else None
        if not judge:
            # A network without a second time takes three arguments.
            more = (step,) if self.knows_step else ()
            return self.network(x, t, condition, *more)
        assert self.head is not None
        features = self.network.features(x, t, condition, duration, self.looks_through)
        return self.head(features).flatten()


def denoising_loss(
    x: Tensor, t: Tensor, condition: Condition, context: Context, *step: Tensor
) -> Tensor:
    """Flow matching of the fake score to the student's samples: a scalar, with its gradient.

    Args:
        x: the samples ``(B, *sample)``, without a gradient.
        t: noise levels ``(B,)`` at which they are denoised.
        condition: their conditions.
        context: has the module "fake_score", and draws the noise.
        step: times of the student's evaluations, of a ``FakeScore`` (see there).
    """
    noise = context.random.normal("fake noise", x.shape[1:])
    velocity = context.networks["fake_score"](flow.interpolate(x, noise, t), t, condition, *step)
    return (velocity - (noise - x)).square().mean()
