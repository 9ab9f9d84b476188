"""Class-conditional images as latents of an autoencoder: ImageNet 256, or any set prepared alike.

Latents come from ``piflow_bench prepare imagenet``; the teacher is a DiT checkpoint; samples are
decoded before anyone looks at them. The reference of the data question is a file: ADM's
``VIRTUAL_imagenet256_labeled.npz``, statistics, or images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.teacher import Guidance, Teacher
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import cache_folder, find_weights
from piflow_bench.evaluation.extractors.inception import FILE, URL
from piflow_bench.files.hub import SCHEME, digest, is_address, local_path
from piflow_bench.files.weights import read_weights
from piflow_bench.networks.autoencoder import (
    DTYPES,
    UINT8,
    Autoencoder,
    autoencoder_digest,
    stated_facts,
)
from piflow_bench.networks.dit import DiT
from piflow_bench.networks.pretrained import architecture, dit_state, load_dit
from piflow_bench.preparation.latents import Latents
from piflow_bench.randomness import SampleRandom, TrainingRandom
from piflow_bench.settings import build_dataclass, setting

EXTRACTOR = "inception"
CHUNK = 256
"""Samples decoded and looked at between two words of progress."""


@dataclass(frozen=True)
class Config:
    """Settings of the dataset."""

    latents: str | None = setting(None)  # folder made by `prepare imagenet`
    reference: str | None = setting(None)  # npz of statistics and images, or a folder of images
    checkpoint: str | None = setting("hf://Lakonik/pi-Flow-ImageNet/teachers/repa_imagenet.pth")
    units: float = setting(1.0, above=0)  # the teacher's time at noise
    reverse: bool = False  # whether its time runs from noise to data
    heads: int | None = setting(None, least=1)  # of the teacher, where its file does not say
    guidance: float = setting(3.2, least=0)
    guidance_low: float = setting(0.0, least=0, most=1)  # guidance holds for t in [low, high]
    guidance_high: float = setting(0.7, least=0, most=1)
    autoencoder: str | None = setting("hf://stabilityai/sd-vae-ft-ema")
    autoencoder_dtype: str = setting("float32", choices=DTYPES)
    uint8: str = setting("adm", choices=tuple(UINT8))  # how pixels become integers
    weights: str | None = setting(None)  # of Inception, where they are not in the cache folder
    # folder for generated inputs, in place of all the paths above
    generated: str | bool | None = setting(None)

    def __post_init__(self) -> None:
        if self.guidance_low > self.guidance_high:
            raise ValueError(
                f"guidance_low={self.guidance_low}: must be at most guidance_high, "
                f"{self.guidance_high}"
            )


@dataclass(frozen=True)
class LatentRows:
    """Training latents, read as they are needed: a random view, and the encoder's own noise."""

    latents: Latents

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, rows: Tensor, random: TrainingRandom | None) -> Tensor:
        """Latents ``(B, C, h, w)`` of the given rows."""
        if random is None:
            return self.latents.take(rows, None, None)
        view = random.integers("data view", 2).cpu()
        noise = random.normal("data noise", self.latents.shape).float().cpu()
        return self.latents.take(rows, view, noise)


def conditions(classes: int) -> Callable[[int, Sequence[int]], Classes]:
    """Labels by sample index: random integers, not balanced (METHODS: the paper's protocol)."""

    def labels(sample_seed: int, indices: Sequence[int]) -> Classes:
        return Classes(SampleRandom(sample_seed, indices).integers(classes), classes)

    return labels


def requirements(settings: dict[str, Any]) -> list[Requirement]:
    """The files that the dataset is read from, for `doctor`."""
    o = build_dataclass(Config, settings, "dataset.settings")
    if o.generated:
        return []
    weights = o.weights or str(cache_folder() / FILE)
    return [
        Requirement(
            "dataset.settings.latents",
            o.latents,
            "python -m piflow_bench prepare imagenet source=IMAGENET out=LATENTS, then "
            "dataset.settings.latents=LATENTS",
        ),
        Requirement(
            "dataset.settings.reference",
            o.reference,
            "dataset.settings.reference=VIRTUAL_imagenet256_labeled.npz, of ADM's suite",
        ),
        Requirement("teacher", o.checkpoint, f"{_download(o.checkpoint)} checkpoint=FILE"),
        Requirement(
            "autoencoder",
            o.autoencoder,
            f"{_download(o.autoencoder)} dataset.settings.autoencoder=FOLDER",
        ),
        Requirement(
            "Inception's weights", weights, f"put {FILE} there, or dataset.settings.weights=FILE"
        ),
    ]


def _download(source: str | None) -> str:
    """The command that fetches an address where there is a network."""
    if source is None or not is_address(source):
        return ""
    owner, name, *inside = source.removeprefix(SCHEME).partition("@")[0].split("/")
    return f"hf download {owner}/{name} {'/'.join(inside)}".strip() + ", then"


def load(settings: dict[str, Any], device: str = "cpu") -> Dataset:
    """ImageNet 256, or images prepared alike, as latents of an autoencoder.

    Settings: see ``Config``. Decodes and looks at images on ``device``.
    """
    build_dataclass(Config, settings, "dataset.settings")
    if settings.get("generated"):
        from piflow_bench.preparation.stand_ins import generate

        # What is given stays: the profile sets what its files give to null.
        given = {k: v for k, v in settings.items() if v is not None}
        made = generate(Path(settings["generated"]))
        if "checkpoint" in given:  # Its heads are its own.
            del made["heads"]
        settings = {**made, **given, "generated": None}
    o = build_dataclass(Config, settings, "dataset.settings")
    for r in requirements(asdict(o)):
        if r.source is None:
            raise UserError(f"{r.name}: not given; {r.mend}")
    latents = Latents(Path(o.latents))
    guidance = Guidance(o.guidance, o.guidance_low, o.guidance_high)
    source = o.checkpoint
    path = local_path(source, "teacher")
    reference = local_path(o.reference, "reference")
    vae = local_path(o.autoencoder, "autoencoder")

    if latents.shape[1] != latents.shape[2]:
        raise UserError(
            f"dataset.settings.latents={o.latents}: {'x'.join(map(str, latents.shape))}, but the "
            "networks here are of squares; prepare square images"
        )
    _check_autoencoder(latents, vae, o.autoencoder)

    @cache
    def teacher() -> Teacher:
        network, of, taken = load_dit(source, o.units, o.reverse, latents.shape[1], o.heads)
        if network.channels != latents.shape[0]:
            raise UserError(
                f"checkpoint {source}: for latents of {network.channels} channels, but these are "
                f"{'x'.join(map(str, latents.shape))}"
            )
        classes = network.emb.class_embedder.embedding_table.num_embeddings - 1
        if classes != latents.classes:
            raise UserError(
                f"checkpoint {source}: embeds {classes} classes and a null label, but "
                f"dataset.settings.latents={o.latents} has {latents.classes} classes"
            )
        return Teacher(network, network, guidance, digest=of, taken=taken)

    def fresh_network() -> DiT:
        found = read_weights(path)
        state = dit_state(found.state)
        a = architecture(state, found.facts, latents.shape[1], o.heads, source)
        return DiT(a.channels, a.height, None, a.dim, a.depth, a.heads, a.patch, a.classes, o.units)

    @cache
    def autoencoder() -> Autoencoder:
        return Autoencoder.load(str(vae), device, o.autoencoder_dtype)

    def decode(x: Tensor) -> np.ndarray:
        return autoencoder().to_uint8(autoencoder().decode(x), o.uint8)

    @cache
    def network() -> Any:
        from piflow_bench.evaluation.extractors.extractor import get_extractor

        return get_extractor(EXTRACTOR, o.weights, device)

    def outputs(images: np.ndarray) -> dict[str, np.ndarray]:
        from piflow_bench.evaluation.extractors.extractor import usual_batch

        batch = usual_batch(device)
        parts = [network()(images[i : i + batch]) for i in range(0, len(images), batch)]
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}

    return Dataset(
        name="imagenet",
        kind="images",
        shape=latents.shape,
        train=torch.empty(0, *latents.shape),
        train_condition=Classes(latents.labels, latents.classes),
        test=torch.empty(0, *latents.shape),
        test_condition=Classes(latents.labels[:0], latents.classes),
        conditions=conditions(latents.classes),
        teacher=teacher,
        fresh_network=fresh_network,
        extractors={EXTRACTOR: lambda x: outputs(decode(x))},
        digest=latents.digest,
        identity={
            "units": o.units,
            "reverse": o.reverse,
            "heads": o.heads,
            "uint8": o.uint8,
            "autoencoder_dtype": o.autoencoder_dtype,
            "guidance": [guidance.scale, guidance.low, guidance.high],
            "autoencoder": autoencoder_digest(vae, str(o.autoencoder)),
            "reference": digest(reference),
        },
        extractor_digests={EXTRACTOR: _extractor_digest(o.weights)},
        rows=LatentRows(latents),
        outputs=("features", "logits", "spatial"),
        decode=decode,
        reference=lambda name: real_outputs(reference, outputs),
        chunk=CHUNK,
        label_law="uniform",
        notes={"guidance": guidance.scale},
    )


def _check_autoencoder(latents: Latents, folder: Path, source: str | None) -> None:
    """Refuse an autoencoder that states another fact than the one that made the latents."""
    made = {"channels": latents.shape[0], **latents.facts}
    if "size" in made:
        made["factor"] = made["size"] // latents.shape[1]
    for name, value in stated_facts(folder, str(source)).items():
        if name in made and made[name] != value:
            raise UserError(
                f"dataset.settings.autoencoder={source}: its {name} is {value}, but that of the "
                f"one which made {latents.folder} is {made[name]}"
            )


def _extractor_digest(weights: str | None) -> str:
    return digest(find_weights("inception", weights, FILE, URL, "6726825d"))


def real_outputs(
    path: Path, outputs: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Outputs of a reference's images, and the moments that its file states of a larger set."""
    from piflow_bench.evaluation.sources import open_reference

    opened = open_reference(path, workers=2)
    found: dict[str, np.ndarray] = {}
    if opened.images is not None:
        parts = [outputs(images) for images in opened.images.batches(CHUNK)]
        found = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    statistics = opened.statistics
    if statistics is not None:
        for name, moments in (("", statistics.pooled), ("spatial/", statistics.spatial)):
            if moments is not None:
                found[f"{name}count"] = np.array([moments.n])
                found[f"{name}mean"], found[f"{name}scatter"] = moments.mean, moments.scatter
    return found
