"""The autoencoder between images and latents: diffusers' AutoencoderKL behind four functions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import WEIGHTS
from piflow_bench.settings import refuse_name

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Autoencoder:
    """A frozen AutoencoderKL; latents are ``(z - shift) * scaling``, as a diffusion network's.

    ``channels`` of a latent, ``factor`` pixels a side of a latent's element.
    """

    model: Any
    channels: int
    factor: int
    scaling: float
    shift: float
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
            UserError: if it is no AutoencoderKL in safetensors.
        """
        if dtype not in DTYPES:
            raise UserError(f"autoencoder dtype={dtype}: {refuse_name(dtype, DTYPES)}")
        folder = local_path(str(source), "autoencoder")
        _check_config(folder, source)
        weights = _weights(folder, source)
        kind = getattr(torch, dtype)
        from diffusers import AutoencoderKL

        try:
            model = AutoencoderKL.from_pretrained(
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
        config = model.config  # With what the file leaves out.
        model = model.to(device).eval().requires_grad_(False)
        return cls(
            model,
            int(config.latent_channels),
            2 ** (len(config.block_out_channels) - 1),
            float(config.scaling_factor or 1.0),
            float(getattr(config, "shift_factor", None) or 0.0),
            weights,
            device,
            kind,
        )

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(B, C, h, w)`` float32 of images in [-1, 1]."""
        posterior = self.model.encode(images.to(self.device, self.dtype)).latent_dist
        mean = (posterior.mean.float() - self.shift) * self.scaling
        return mean, posterior.std.float() * self.scaling

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: int = 16) -> Tensor:
        """Images ``(B, 3, H, W)`` float32 on the CPU, about [-1, 1], ``batch`` at once."""
        parts = []
        for part in latents.split(batch):
            z = part.to(self.device).float() / self.scaling + self.shift
            parts.append(self.model.decode(z.to(self.dtype)).sample.float().cpu())
        return torch.cat(parts)


def stated_facts(folder: Path, source: str) -> dict[str, Any]:
    """What a folder's ``config.json`` states of its latents, and the digest of its weights.

    By the names of ``latents.json``: ``scaling``, ``shift``, ``channels``, ``factor`` and
    ``autoencoder``; what is not stated is left out. No weights are loaded.

    Raises:
        UserError: if it is no AutoencoderKL in safetensors.
    """
    config = _check_config(folder, source)
    facts: dict[str, Any] = {"autoencoder": _weights(folder, source)}
    if config.get("scaling_factor") is not None:
        facts["scaling"] = float(config["scaling_factor"])
    if "shift_factor" in config:
        facts["shift"] = float(config["shift_factor"] or 0.0)
    if "latent_channels" in config:
        facts["channels"] = config["latent_channels"]
    if "block_out_channels" in config:
        facts["factor"] = 2 ** (len(config["block_out_channels"]) - 1)
    return facts


def autoencoder_digest(folder: Path, source: str) -> str:
    """Digest of weights and configuration, whatever else lies in the folder: what decides images.

    Raises:
        UserError: if it is no AutoencoderKL in safetensors.
    """
    config = _check_config(folder, source)
    stated = {k: v for k, v in config.items() if not k.startswith("_")}  # Versions, and its path.
    text = json.dumps(stated, sort_keys=True)
    return hashlib.sha256(f"{_weights(folder, source)} {text}".encode()).hexdigest()


def _check_config(folder: Path, source: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"autoencoder={source}: no config.json of diffusers in {folder}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"autoencoder={source}: {path} is not JSON ({error})") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "AutoencoderKL":
        raise UserError(f"autoencoder={source}: a {kind}, not an AutoencoderKL")
    return config


def _weights(folder: Path, source: str) -> str:
    """sha256 of the weights, whatever else lies in the folder.

    Raises:
        UserError: if there are none that are read without unpickling.
    """
    if (folder / f"{WEIGHTS}.safetensors").is_file():
        return digest(folder / f"{WEIGHTS}.safetensors")
    shards = sorted(folder.glob(f"{WEIGHTS}-*-of-*.safetensors"))
    if shards:
        return hashlib.sha256("".join(digest(shard) for shard in shards).encode()).hexdigest()
    pickled = next((p for kind in PICKLED for p in sorted(folder.glob(f"*{kind}"))), None)
    if pickled is not None:
        raise UserError(
            f"autoencoder={source}: {pickled.name} is a pickle, which is not read; where you "
            f"trust it: AutoencoderKL.from_pretrained({str(folder)!r}).save_pretrained(FOLDER)"
        )
    raise UserError(f"autoencoder={source}: no {WEIGHTS}.safetensors in {folder}")
