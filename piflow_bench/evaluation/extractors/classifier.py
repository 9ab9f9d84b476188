"""A classifier that was trained on pictures of the experiment's own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.extractor import FEATURES, LOGITS, Extractor, ExtractorPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.classifier_network import classifier_of
from piflow_bench.evaluation.extractors.extractor import channels_first, given_file
from piflow_bench.files.weights import load_into, read_state

MAKE = (
    "piflow_bench prepare classifier experiment=NAME out=FILE, extractors.classifier.weights=FILE"
)
SIZE = "size"
"""In the file: height and width of the pictures that it was trained on, int64 ``(2,)``."""
AT_ONCE = 256
"""Pictures at once: of a network this small."""


class ClassifierOfTheData(ExtractorPlugin):
    """A small classifier of the experiment's own pictures: `prepare classifier` trains it.

    128 features and the logits of its classes, of pictures as large as those it was trained on.
    """

    outputs = (FEATURES, LOGITS)
    rule = "as they are"
    seconds = 2e-3

    def requirements(self) -> Sequence[Requirement]:
        """Its weights, which no package brings."""
        return [Requirement("weights of classifier", self.config.weights, MAKE)]

    def file(self) -> Path:
        """The given file."""
        if self.config.weights is None:
            raise UserError(f"extractors.classifier.weights: not given; {MAKE}")
        return given_file(self.config.weights)

    def load(self, name: str, place: Place) -> Extractor:
        """The network of the file's sizes."""
        path = self.file()
        where = f"extractors.classifier.weights={path}"
        state = {
            key: value.float() if value.is_floating_point() else value
            for key, value in read_state(path, where).items()
        }
        size = state.pop(SIZE, None)
        try:
            network = classifier_of(state)
        except (KeyError, IndexError) as error:
            raise UserError(f"{where}: no classifier that `prepare classifier` made") from error
        load_into(network, state, where)
        network = network.requires_grad_(False).eval().to(place.device)
        first: Any = network.stages[0]
        grey = first[0].in_channels == 1
        sides = None if size is None else tuple(int(side) for side in size)

        def prepare(images: np.ndarray) -> Tensor:
            if sides is not None and images.shape[1:3] != sides:
                raise UserError(
                    f"extractor=classifier: {where} was trained on {sides[1]}x{sides[0]} pictures, "
                    f"and these are {images.shape[2]}x{images.shape[1]}"
                )
            return pictures(images, grey)

        def outputs(x: Tensor) -> dict[str, Tensor]:
            features = network.features(x)
            return {FEATURES: features, LOGITS: network.out(features)}

        return self.loaded(name, place, prepare, outputs, AT_ONCE)


def pictures(images: np.ndarray, grey: bool) -> Tensor:
    """Images ``(b, h, w, c)`` uint8 as ``(b, 3 or 1, h, w)`` in [-1, 1]; grey: channels' mean."""
    x = channels_first(images).float() / 127.5 - 1
    if not grey:
        return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
    return torch.mean(x, 1, keepdim=True)
