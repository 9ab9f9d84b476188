"""A small convolutional classifier of pictures, whose last hidden layer describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

WIDTHS = (32, 64, 128)
"""Channels of its stages."""


class Classifier(nn.Module):
    """Two 3x3 convolutions a stage, each with batch norm and GELU; the grid is halved between.

    Args:
        channels: of the pictures.
        classes: how many there are.
        widths: channels of the stages; the last is the number of features.
    """

    def __init__(self, channels: int, classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for inner, outer in zip((channels, *widths), widths, strict=False):
            layers: list[nn.Module] = []
            for width in (inner, outer):
                layers += [
                    nn.Conv2d(width, outer, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outer),
                    nn.GELU(),
                ]
            self.stages.append(nn.Sequential(*layers))
        self.halve = nn.MaxPool2d(2)
        self.out = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        """Means ``(B, widths[-1])`` over the grid, of pictures ``(B, channels, h, w)`` in [-1, 1].

        Both sides of a picture are at least 4 pixels.
        """
        x = self.stages[0](x)
        for stage in self.stages[1:]:
            x = stage(self.halve(x))
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``(B, classes)``."""
        return self.out(self.features(x))


def classifier_of(state: Mapping[str, Tensor]) -> Classifier:
    """A classifier of the sizes that a state's shapes say, its weights as they were made.

    Raises:
        KeyError: if the state is none of a classifier.
    """
    stages = 1 + max(
        (int(name.split(".")[1]) for name in state if name.startswith("stages.")), default=-1
    )
    widths = [len(state[f"stages.{i}.0.weight"]) for i in range(stages)]
    return Classifier(state["stages.0.0.weight"].shape[1], len(state["out.weight"]), widths)
