"""Latents of an autoencoder: samples are decoded before anything looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.space import Space, SpacePlugin
from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.uint8 import RULES, by_rule, signed
from piflow_bench.files.hub import download_command, local_path
from piflow_bench.networks.autoencoder import (
    DTYPES,
    Autoencoder,
    autoencoder_digest,
    stated_facts,
)
from piflow_bench.settings import Location, setting

CHUNK = 256
"""Samples that are decoded and looked at between two words of progress."""


@dataclass(frozen=True)
class Config:
    """Settings of latents."""

    # a folder that diffusers' save_pretrained wrote
    autoencoder: Location | None = setting(Location("hf://stabilityai/sd-vae-ft-ema"))
    dtype: str = setting("float32", choices=DTYPES)  # of its weights and arithmetic
    uint8: str = setting("adm", choices=tuple(RULES))  # how pixels become integers


class Latents(SpacePlugin):
    """Latents of an AutoencoderKL in diffusers' format."""

    Config = Config

    @property
    def source(self) -> str:
        """Where the autoencoder is.

        Raises:
            UserError: if that is not said.
        """
        if self.config.autoencoder is None:
            raise UserError("space.autoencoder: not given; space.autoencoder=FOLDER")
        return str(self.config.autoencoder)

    def requirements(self) -> list[Requirement]:
        """The autoencoder."""
        source = self.config.autoencoder
        mend = f"{download_command(source)} space.autoencoder=FOLDER".strip()
        return [Requirement("autoencoder", source, mend)]

    def identity(self) -> Mapping[str, Any]:
        """Weights and configuration of the autoencoder, whatever else lies in its folder."""
        folder = local_path(self.source, "autoencoder")
        return {
            "autoencoder": autoencoder_digest(folder, self.source),
            "dtype": self.config.dtype,
            "uint8": self.config.uint8,
        }

    def facts(self) -> dict[str, Any]:
        """What its configuration states: see :func:`autoencoder.stated_facts`."""
        return stated_facts(local_path(self.source, "autoencoder"), self.source)

    @property
    def _factor(self) -> int:
        """Pixels a side of a latent's element."""
        return int(self.facts().get("factor", 8))

    def pictures_of(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Colour pictures, larger by the autoencoder's factor."""
        _, height, width = shape
        return height * self._factor, width * self._factor, 3

    def load(self, pictures: tuple[int, int, int], place: Place) -> Space:
        """Samples ``(C, height / factor, width / factor)``.

        Raises:
            UserError: for pictures that do not divide.
        """
        height, width, _ = pictures
        factor, channels = self._factor, int(self.facts().get("channels", 4))
        if height % factor or width % factor:
            raise UserError(
                f"space.autoencoder={self.source}: pictures of {width}x{height} do not divide by "
                f"{factor}"
            )

        @cache
        def autoencoder() -> Autoencoder:
            # A cluster's results are collected where there may be no GPU.
            there = place.device == "cpu" or torch.cuda.is_available()
            return Autoencoder.load(
                self.source, place.device if there else "cpu", self.config.dtype
            )

        def look(x: Tensor) -> np.ndarray:
            return by_rule(autoencoder().decode(x), self.config.uint8)

        def encode(images: np.ndarray) -> Tensor:
            rgb = np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
            x = signed(torch.from_numpy(rgb).permute(0, 3, 1, 2))
            return autoencoder().encode(x)[0].cpu()

        shape = (channels, height // factor, width // factor)
        return Space(shape, look, encode, bounded=False, chunk=CHUNK)
