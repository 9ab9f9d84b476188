"""Small stand-ins for everything that large experiments read, in the same formats.

JPEGs in class folders, an autoencoder saved by diffusers, a teacher in the official checkpoint's
layout, Inception's weights, and a reference file as ADM's. Weights are random: numbers made from
them mean nothing, but every file goes the way of the real one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from piflow_bench.files.atomic import exchange

CLASSES, PER_CLASS, SIDE, HEADS = 10, 3, 64, 4
VERSION = 2
"""Raise it when anything here changes: older folders are made anew."""
FILES = {
    "imagenet": {
        "latents": "latents",
        "reference": "reference.npz",
        "teacher": "teacher.pth",
        "autoencoder": "autoencoder",
        "inception": "inception.pth",
    },
    "text-to-image": {
        "prompts": "prompts.txt",
        "flux": "flux",
        "flux-autoencoder": "flux/vae",
        "qwen": "qwen",
        "qwen-autoencoder": "qwen/vae",
        "flux-gm": "flux-gm",
        "flux-dx": "flux-dx",
        "qwen-gm": "qwen-gm",
        "qwen-dx": "qwen-dx",
        "flux-lora": "flux-lora.safetensors",
        "qwen-lora": "qwen-lora.safetensors",
        "clip": "clip",
    },
}
"""Names of stand-ins and where they lie, by what is made together."""


def generate(folder: Path, names: Iterable[str] = tuple(FILES["imagenet"])) -> dict[str, str]:
    """Make the files of these names in ``folder`` unless they are there.

    Returns:
        Their paths, and of all that is made with them, by name.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, str] = {}
    for group in dict.fromkeys(_group_of(name) for name in names):
        with FileLock(folder / f"{group}.lock"):
            whole, made = folder / group, folder / group / "made.json"
            if not made.is_file() or json.loads(made.read_text()) != {"version": VERSION}:
                fresh = folder / f"{group}.tmp"
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir()
                GROUPS[group](fresh)
                (fresh / "made.json").write_text(json.dumps({"version": VERSION}))
                exchange(fresh, whole, folder / f"{group}.old")
        found |= {name: str(whole / path) for name, path in FILES[group].items()}
    return found


def _group_of(name: str) -> str:
    return next(group for group, files in FILES.items() if name in files)


def _make_imagenet(folder: Path) -> None:
    from piflow_bench.preparation.imagenet import prepare

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images(folder / "images")
        autoencoder(folder / "autoencoder")
        teacher(folder / "teacher.pth")
        inception(folder / "inception.pth")
    prepare(
        source=str(folder / "images"),
        out=str(folder / "latents"),
        autoencoder=str(folder / "autoencoder"),
        size=SIDE,
        classes=CLASSES,
        shard=32,
        batch=8,
        device="cpu",
    )
    reference(folder)


def images(folder: Path, per_class: int = PER_CLASS) -> None:
    """JPEGs of coloured waves, one direction a class, in class folders; sizes vary."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        place = folder / f"class{label:02d}"
        place.mkdir(parents=True)
        angle = np.pi * label / CLASSES
        for i in range(per_class):
            height, width = (int(s) for s in rng.integers(SIDE, 2 * SIDE, 2))
            y, x = np.mgrid[:height, :width] / SIDE
            wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
            colour = rng.uniform(0.3, 1, 3)
            pixels = 127.5 + 127.5 * wave[..., None] * colour
            pixels += rng.normal(0, 8, pixels.shape)
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(place / f"{i:04d}.JPEG", quality=92)


def autoencoder(folder: Path) -> None:
    """A tiny AutoencoderKL that halves an image three times, as Stable Diffusion's does."""
    from diffusers import AutoencoderKL

    made: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
    )
    made.save_pretrained(folder)


def teacher(path: Path) -> None:
    """A small DiT's weights under the official names."""
    from piflow_bench.networks.dit import DiT

    network = DiT(channels=4, height=SIDE // 8, dim=48, depth=2, heads=HEADS, classes=CLASSES)
    for name, p in network.named_parameters():
        if "norm1.linear" in name or "proj_out" in name:  # These start at zero.
            nn.init.normal_(p, std=0.05)
    torch.save({"state_dict": network.state_dict()}, path)


def inception(path: Path) -> None:
    """Inception of random weights, in torch-fidelity's file format."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Fresh(FeatureExtractorInceptionV3):  # Its constructor wants weights to load.
        def load_state_dict(self, state: Any, *args: Any, **options: Any) -> Any:
            return None

    torch.save({}, path)
    network = Fresh("fresh", ["2048"], str(path))
    for name, value in network.state_dict().items():
        if value.ndim == 4:  # So that what tells images apart survives to the last layer.
            nn.init.kaiming_normal_(value)
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
        elif name.endswith("bn.weight"):
            value.uniform_(0.9, 1.1)
        elif value.is_floating_point():
            value.normal_(0, 0.1)
    torch.save(network.state_dict(), path)


def reference(folder: Path) -> None:
    """Images and statistics in one npz, as ADM's reference files hold them."""
    from piflow_bench.evaluation.extractors.extractor import get_extractor, usual_batch
    from piflow_bench.evaluation.moments import Moments
    from piflow_bench.evaluation.pictures.uint8 import by_rule
    from piflow_bench.networks.autoencoder import Autoencoder
    from piflow_bench.preparation.latents import Latents

    latents = Latents(folder / "latents")
    coder = Autoencoder.load(str(folder / "autoencoder"))
    decoded = coder.decode(latents.take(torch.arange(len(latents)), None, None))
    pictures = by_rule(decoded, "adm")
    network, batch = (
        get_extractor("inception", str(folder / "inception.pth")),
        usual_batch("cpu"),
    )
    parts = [network(pictures[i : i + batch]) for i in range(0, len(pictures), batch)]
    pooled, spatial = (
        Moments.from_features(np.concatenate([p[k] for p in parts]))
        for k in ("features", "spatial")
    )
    np.savez(
        folder / "reference.npz",
        arr_0=pictures,
        mu=pooled.mean,
        sigma=pooled.covariance,
        mu_s=spatial.mean,
        sigma_s=spatial.covariance,
    )


def _make_text_to_image(folder: Path) -> None:
    from piflow_bench.preparation.tiny_adapters import tiny_adapter, tiny_clip, tiny_lora
    from piflow_bench.preparation.tiny_pipelines import PROMPTS, tiny_flux, tiny_qwen

    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_flux(folder / "flux")
        tiny_qwen(folder / "qwen")
        tiny_clip(folder / "clip")
        for kind in ("flux", "qwen"):
            tiny_lora(folder / kind, folder / f"{kind}-lora.safetensors")
            for policy in ("gm", "dx"):
                tiny_adapter(folder / kind, folder / f"{kind}-{policy}", policy)


GROUPS = {"imagenet": _make_imagenet, "text-to-image": _make_text_to_image}
"""What makes each group's files in a folder."""
