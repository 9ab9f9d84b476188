"""Inception-v3 of 2015-12-05: as ADM and torch-fidelity feed it, and as clean-fid does."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.extractor import FEATURES, LOGITS, SPATIAL, Extractor, ExtractorPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import (
    channels_first,
    find_weights,
    weights_requirement,
)
from piflow_bench.files.weights import read_state

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
CLEAN_FILE = "inception-2015-12-05.pt"
CLEAN_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + CLEAN_FILE
)
SIDE = 299
"""Pixels a side that the network sees."""
SPATIAL_CHANNELS = 7
"""ADM's sFID takes this many channels of mixed_6/conv: 17 x 17 x 7 = 2023 features."""


class Inception(ExtractorPlugin):
    """Inception-v3 as ADM and torch-fidelity feed it: features, logits, spatial features.

    The network and its TF1-style bilinear resizing are torch-fidelity's, which equal TensorFlow's
    to rounding. Spatial features are flattened rows first, channels last, as ADM's stored
    statistics are.
    """

    outputs: ClassVar[tuple[str, ...]] = (FEATURES, LOGITS, SPATIAL)
    rule = "TF1 bilinear to 299"

    def requirements(self) -> list[Requirement]:
        """The weights' file."""
        return weights_requirement("inception", self.config.weights, FILE)

    def file(self) -> Path:
        """torch-fidelity's file of the weights."""
        return find_weights("inception", self.config.weights, FILE, URL, "6726825d")

    def load(self, name: str, place: Place) -> Extractor:
        """torch-fidelity's network."""
        return self.fed(name, place, channels_first)

    def fed(self, name: str, place: Place, prepare: Callable[[np.ndarray], Tensor]) -> Extractor:
        """torch-fidelity's network, fed with what ``prepare`` makes of pictures."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = self.file()
        # Its constructor unpickles what it is given: that must be a file we wrote ourselves.
        clean = io.BytesIO()
        torch.save(read_state(path, f"extractor.weights={path}"), clean)
        clean.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], clean)
        except RuntimeError as error:
            line = " ".join(str(error).split())[:200]
            raise UserError(f"extractor.weights={path}: of another network: {line}") from error
        network = network.to(place.device)
        kept: dict[str, Tensor] = {}
        network.Mixed_6d.branch1x1.register_forward_hook(
            lambda module, inputs, output: kept.update(spatial=output)
        )

        def outputs(x: Tensor) -> dict[str, Tensor]:
            pooled, logits = network(x)
            spatial = kept.pop("spatial")[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
            found = {FEATURES: pooled, LOGITS: logits, SPATIAL: spatial}
            return {name: found[name] for name in self.outputs}

        return self.loaded(name, place, prepare, outputs)


class PatchInception(Inception):
    """Inception-v3 on the centre of a picture at its full resolution: patch FID's features.

    What a resized picture does not show, its details, decides here (pi-Flow's pFID).
    """

    outputs = (FEATURES,)
    rule = f"the centre's {SIDE} pixels"

    def load(self, name: str, place: Place) -> Extractor:
        """The same network, without resizing."""

        def prepare(images: np.ndarray) -> Tensor:
            height, width = images.shape[1:3]
            if min(height, width) < SIDE:
                raise UserError(
                    f"extractor={name}: looks at {SIDE}x{SIDE} pixels of a picture, and these have "
                    f"{width}x{height}"
                )
            top, left = (height - SIDE) // 2, (width - SIDE) // 2
            return channels_first(images[:, top : top + SIDE, left : left + SIDE])

        return self.fed(name, place, prepare)


def clean_resized(images: np.ndarray, side: int = 299) -> np.ndarray:
    """clean-fid's rule: Pillow's bicubic on float32 channels, clipped to 0..255, not rounded."""
    from PIL import Image

    def channel(plane: np.ndarray) -> np.ndarray:
        image = Image.fromarray(plane.astype(np.float32))
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)).clip(0, 255)

    return np.stack(
        [np.stack([channel(i[..., c]) for c in range(3)], axis=-1) for i in images]
    ).astype(np.float32)


class CleanInception(ExtractorPlugin):
    """Inception-v3 as clean-fid feeds it: its resizing, its TorchScript network.

    A TorchScript archive holds code: only files of trusted origin should be given.
    """

    rule = "Pillow bicubic on floats to 299"

    def requirements(self) -> list[Requirement]:
        """The network's file."""
        return weights_requirement("inception-clean", self.config.weights, CLEAN_FILE)

    def file(self) -> Path:
        """clean-fid's file of the network."""
        return find_weights("inception-clean", self.config.weights, CLEAN_FILE, CLEAN_URL, "")

    def load(self, name: str, place: Place) -> Extractor:
        """clean-fid's network."""
        path = self.file()
        try:
            base = torch.jit.load(str(path), map_location=place.device).eval()
            layers = base.layers
        except (RuntimeError, AttributeError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(
                f"extractor.weights={path}: not the TorchScript Inception that clean-fid uses "
                f"({line})"
            ) from error

        def prepare(images: np.ndarray) -> Tensor:
            return channels_first(clean_resized(images))

        def outputs(x: Tensor) -> dict[str, Tensor]:
            return {FEATURES: layers((x - 128) / 128).reshape(len(x), -1)}

        return self.loaded(name, place, prepare, outputs)
