"""The autoencoder between images and latents: diffusers' classes behind four functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from piflow_bench.errors import UserError
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import weights_digest
from piflow_bench.settings import refuse_name

DTYPES = ("float32", "float16", "bfloat16")
OF_FRAMES = "AutoencoderKLQwenImage"
"""The one whose pictures are films of one frame, with a mean and a std for every channel."""
KINDS = ("AutoencoderKL", OF_FRAMES)
Scale = float | list[float]
"""One number, or one for every channel."""


@dataclass(frozen=True)
class Autoencoder:
    """A frozen autoencoder; latents are ``(z - shift) * scaling``, as a diffusion network's.

    ``channels`` of a latent, ``factor`` pixels a side of a latent's element.
    """

    model: Any
    channels: int
    factor: int
    scaling: Scale
    shift: Scale
    digest: str
    """sha256 of its weights' file."""
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @classmethod
    def load(
        cls, source: str, device: str = "cpu", dtype: str = "float32", tiled: bool = False
    ) -> Self:
        """From a folder that diffusers' ``save_pretrained`` wrote, or an ``hf://`` address.

        Args:
            source: see ``hub.local_path``.
            device: cpu, cuda or cuda:1.
            dtype: float32, float16 or bfloat16: of its weights and arithmetic.
            tiled: whether large images are decoded in overlapping tiles, to save memory.

        Raises:
            UserError: if it is none of ``KINDS`` in safetensors.
        """
        if dtype not in DTYPES:
            raise UserError(f"autoencoder dtype={dtype}: {refuse_name(dtype, DTYPES)}")
        folder = local_path(str(source), "autoencoder")
        stated = _check_config(folder, source)
        weights = weights_digest(folder, f"autoencoder={source}")
        kind = getattr(torch, dtype)
        import diffusers

        try:
            model = getattr(diffusers, stated["_class_name"]).from_pretrained(
                folder,
                torch_dtype=kind,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,  # True wants a package more.
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(f"autoencoder={source}: {words}") from error
        if tiled:
            model.enable_tiling()
        facts = _facts(dict(model.config), stated["_class_name"])  # With what the file leaves out.
        model = model.to(device).eval().requires_grad_(False)
        return cls(
            model,
            facts["channels"],
            facts["factor"],
            facts.get("scaling", 1.0),
            facts.get("shift", 0.0),
            weights,
            device,
            kind,
        )

    @property
    def _of_frames(self) -> bool:
        return type(self.model).__name__ == OF_FRAMES

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(B, C, h, w)`` float32 of images in [-1, 1]."""
        x = images.to(self.device, self.dtype)
        posterior = self.model.encode(x[:, :, None] if self._of_frames else x).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        if self._of_frames:
            mean, std = mean[:, :, 0], std[:, :, 0]
        scaling = _by_channel(self.scaling, mean)
        return (mean - _by_channel(self.shift, mean)) * scaling, std * scaling

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: int = 16) -> Tensor:
        """Images ``(B, 3, H, W)`` float32 on the CPU, about [-1, 1], ``batch`` at once."""
        parts = []
        for part in latents.split(batch):
            z = part.to(self.device).float()
            z = (z / _by_channel(self.scaling, z) + _by_channel(self.shift, z)).to(self.dtype)
            images = self.model.decode(z[:, :, None] if self._of_frames else z).sample
            parts.append((images[:, :, 0] if self._of_frames else images).float().cpu())
        return torch.cat(parts)


def stated_facts(folder: Path, source: str) -> dict[str, Any]:
    """What a folder's ``config.json`` states of its latents, and the digest of its weights.

    By the names of ``latents.json``: ``scaling``, ``shift``, ``channels``, ``factor`` and
    ``autoencoder``; what is not stated is left out. No weights are loaded.

    Raises:
        UserError: if it is none of ``KINDS`` in safetensors.
    """
    config = _check_config(folder, source)
    weights = weights_digest(folder, f"autoencoder={source}")
    return {"autoencoder": weights, **_facts(config, config["_class_name"])}


def _facts(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Facts of the latents, as far as a configuration of a kind has them."""
    facts: dict[str, Any] = {}
    if kind == OF_FRAMES:
        if "latents_mean" in config and "latents_std" in config:
            facts["scaling"] = [1 / float(std) for std in config["latents_std"]]
            facts["shift"] = [float(mean) for mean in config["latents_mean"]]
        if "z_dim" in config:
            facts["channels"] = int(config["z_dim"])
        if "temperal_downsample" in config:
            facts["factor"] = 2 ** len(config["temperal_downsample"])
        return facts
    if config.get("scaling_factor") is not None:
        facts["scaling"] = float(config["scaling_factor"])
    if "shift_factor" in config:
        facts["shift"] = float(config["shift_factor"] or 0.0)
    if "latent_channels" in config:
        facts["channels"] = int(config["latent_channels"])
    if "block_out_channels" in config:
        facts["factor"] = 2 ** (len(config["block_out_channels"]) - 1)
    return facts


def _by_channel(value: Scale, like: Tensor) -> Tensor:
    """A scale to be broadcast over latents ``(B, C, h, w)``."""
    found = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return found.reshape(-1, 1, 1)


def autoencoder_digest(folder: Path, source: str) -> str:
    """Digest of weights and configuration, whatever else lies in the folder: what decides images.

    Raises:
        UserError: if it is none of ``KINDS`` in safetensors.
    """
    config = _check_config(folder, source)
    stated = {k: v for k, v in config.items() if not k.startswith("_")}  # Versions, and its path.
    weights = weights_digest(folder, f"autoencoder={source}")
    text = json.dumps(stated, sort_keys=True)
    return hashlib.sha256(f"{weights} {text}".encode()).hexdigest()


def _check_config(folder: Path, source: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"autoencoder={source}: no config.json of diffusers in {folder}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"autoencoder={source}: {path} is not JSON ({error})") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind not in KINDS:
        raise UserError(f"autoencoder={source}: a {kind}, not an {' or '.join(KINDS)}")
    return config
