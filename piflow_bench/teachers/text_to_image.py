"""FLUX.1 and Qwen-Image as teachers: a frozen transformer of diffusers, prompts encoded before.

A folder as diffusers' ``save_pretrained`` writes it, or its address on the hub. The text encoders
run in a stage of their own (``encode_text``) and are never loaded beside the transformer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from piflow_bench.contracts.condition import Prompts
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.teacher import Guidance, Guided, Teacher, TeacherPlugin
from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import download_command, local_path
from piflow_bench.files.weights import weights_digest
from piflow_bench.networks.text_to_image.base import ROUNDINGS, Transformer
from piflow_bench.networks.text_to_image.eight_bits import keep_in_eight_bits
from piflow_bench.networks.text_to_image.encoded import KEPT, EncodedTexts, TextEncoder, encode
from piflow_bench.networks.text_to_image.encoders import FluxEncoder, QwenEncoder
from piflow_bench.networks.text_to_image.flux import Flux
from piflow_bench.networks.text_to_image.loading import loaded, quietly
from piflow_bench.networks.text_to_image.packing import PATCH
from piflow_bench.networks.text_to_image.qwen import Qwen
from piflow_bench.networks.text_to_image.texts import Text, Texts
from piflow_bench.settings import Location, in_keys, setting

DTYPES = ("bfloat16", "float16", "float32")
WHOLE = "as they are"
TOLD = 3.5
"""The guidance of FLUX.1 [dev] that pi-Flow's adapters are made for."""
AT_ONCE = 8
"""Prompts that are encoded together."""


@dataclass(frozen=True)
class Pipeline(Guided):
    """Settings of a text-to-image model."""

    pipeline: Location | None = setting(None)  # a folder of diffusers' save_pretrained
    dtype: str = setting("bfloat16", choices=DTYPES)  # of its weights and of the encoded prompts
    rounding: str = setting("network", choices=ROUNDINGS)  # of times, in 16 bits
    length: int = setting(512, least=1)  # places of text; what is longer is cut
    # how encoded prompts are kept; fp8: rounded prompt by prompt, as pi-Flow's authors do
    texts: str = setting(KEPT[0], choices=KEPT, added=True)
    # how the weights of its blocks are kept; int8: in half the memory of 16 bits, rounded
    weights: str = setting(WHOLE, choices=(WHOLE, "int8"), added=True)


class TextToImage(TeacherPlugin):
    """What FLUX.1 and Qwen-Image have in common."""

    Config = Pipeline
    encodes = True
    model: ClassVar[str]
    """The class of the transformer in diffusers."""
    encoder: ClassVar[Callable[..., TextEncoder]]
    parts: ClassVar[tuple[str, ...]]
    """Folders of text encoders and their tokenizers."""
    usual_length: ClassVar[int]
    """Places of text that a prompt takes, about."""

    @property
    def folder(self) -> Path:
        """Of the pipeline."""
        return local_path(self.source, "teacher.pipeline")

    @property
    def source(self) -> str:
        """Where the pipeline is.

        Raises:
            UserError: if that is not said.
        """
        if self.config.pipeline is None:
            raise UserError("teacher.pipeline: not given; teacher.pipeline=FOLDER")
        return str(self.config.pipeline)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and encoded prompts."""
        found: torch.dtype = getattr(torch, self.config.dtype)
        return found

    def requirements(self) -> list[Requirement]:
        """The pipeline."""
        source = self.config.pipeline
        mend = f"{download_command(source)} teacher.pipeline=FOLDER".strip()
        return [Requirement("teacher.pipeline", source, mend)]

    def identity(self) -> Mapping[str, Any]:
        """The transformer by its weights and configuration, and what it is called with."""
        where = f"teacher.pipeline={self.source}"
        folder = self.folder / "transformer"
        stated = {k: v for k, v in self.facts().items() if not k.startswith("_")}
        found = in_keys(self.config, vars(self.config))
        found.pop("pipeline", None)
        weights = weights_digest(folder, where)
        return {**found, "transformer": weights, "architecture": stated, **self.encodings()}

    def encodings(self) -> dict[str, Any]:
        """What decides the encoded prompts."""
        missing = [part for part in self.parts if not (self.folder / part).is_dir()]
        if missing:
            raise UserError(f"teacher.pipeline={self.source}: has no folder {missing[0]}")
        c = self.config
        found = {
            "encoders": {part: digest(self.folder / part) for part in self.parts},
            "length": c.length,
            "dtype": c.dtype,
        }
        return found if c.texts == KEPT[0] else found | {"texts": c.texts}

    def facts(self) -> dict[str, Any]:
        """What ``transformer/config.json`` states.

        Raises:
            UserError: if it is the configuration of another model.
        """
        path = self.folder / "transformer" / "config.json"
        where = f"teacher.pipeline={self.source}"
        if not path.is_file():
            raise UserError(f"{where}: has no transformer/config.json")
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{where}: {path} is not JSON ({error})") from error
        if found.get("_class_name") != self.model:
            raise UserError(
                f"{where}: its transformer is a {found.get('_class_name')}, not a {self.model}"
            )
        return found

    def look(self, dataset: Dataset) -> str:
        """Compare the transformer with latents and conditions."""
        where, shape = f"teacher.pipeline={self.source}", dataset.shape
        if not isinstance(dataset.train_condition, Prompts):
            raise UserError(
                f"{where}: draws prompts, which {dataset.name} has not; dataset=prompts"
            )
        channels = int(self.facts()["in_channels"]) // PATCH**2
        if len(shape) != 3 or shape[0] != channels:
            raise UserError(
                f"{where}: for latents of {channels} channels, but these are "
                f"{'x'.join(map(str, shape))}; space.autoencoder={self.source}/vae"
            )
        if shape[1] % PATCH or shape[2] % PATCH:
            raise UserError(
                f"dataset.height={shape[1] * 8}, dataset.width={shape[2] * 8}: must be multiples "
                "of 16"
            )
        return ""

    def fresh_network(self, dataset: Dataset) -> nn.Module:
        """Of the same architecture, called with texts of zeros."""
        facts = self.facts()
        return self._around(self._class().from_config(facts), dataset, _Blank(facts))

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The teacher; ``made`` holds the encoded prompts."""
        self.look(dataset)
        folder = self.folder / "transformer"
        model = loaded(self._class(), folder, self.dtype, use_safetensors=True)
        texts = _Blank(self.facts()) if made is None else EncodedTexts(made)
        network = self._around(model, dataset, texts)
        if self.config.weights == "int8":
            keep_in_eight_bits(network.blocks())
        return Teacher(network, network, self.guidance)

    def frame(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The teacher on the meta device, with its encoded prompts."""
        self.look(dataset)
        with quietly(), torch.device("meta"):
            model = self._class().from_config(self.facts()).to(self.dtype)
        texts = _Blank(self.facts()) if made is None else EncodedTexts(made)
        network = self._around(model, dataset, texts)
        return Teacher(network, network, self.guidance)

    def encoded_bytes(self, dataset: Dataset) -> float:
        """Of every prompt its places of text; not all are full where a mask says so."""
        condition = dataset.train_condition
        assert isinstance(condition, Prompts)
        places = min(self.config.length, self.usual_length)
        width = int(self.facts()["joint_attention_dim"])
        size = 1 if self.config.texts == "fp8" else self.dtype.itemsize
        return float(len(condition.known) * places * width * size)

    def encode(self, dataset: Dataset, folder: Path, device: str, report: Any) -> list[str]:
        """Write the dataset's encoded prompts; a line for each that is cut."""
        _need_transformers()
        condition = dataset.train_condition
        assert isinstance(condition, Prompts)

        def load() -> TextEncoder:
            return type(self).encoder(self.folder, device, self.dtype, self.config.length)

        texts = self.config.texts
        return encode(load, condition.known, folder, AT_ONCE, report, kept=texts)

    def _class(self) -> Any:
        import diffusers

        return getattr(diffusers, self.model)

    def _around(self, model: Any, dataset: Dataset, texts: Texts) -> Transformer:
        raise NotImplementedError


@dataclass(frozen=True)
class FluxConfig(Pipeline):
    """Settings of FLUX.1; the scale that it is told costs no second evaluation."""

    pipeline: Location | None = setting(Location("hf://black-forest-labs/FLUX.1-dev"))
    # the guidance that the network is told; None: 3.5 where it is told any ([dev])
    told: float | None = setting(None, least=0)


class FluxTeacher(TextToImage):
    """FLUX.1 [dev] or [schnell], from a folder of diffusers' or the hub."""

    Config = FluxConfig
    model = "FluxTransformer2DModel"
    encoder = FluxEncoder
    parts = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    usual_length = 512  # All places are kept: they are run without a mask.

    def look(self, dataset: Dataset) -> str:
        """The same, and whether it is told a guidance."""
        if self.config.told is not None and not self.facts().get("guidance_embeds"):
            raise UserError(
                f"teacher.told={self.config.told:g}: teacher.pipeline={self.source} is told no "
                "guidance, as FLUX.1 [schnell]; leave it out"
            )
        return super().look(dataset)

    def _around(self, model: Any, dataset: Dataset, texts: Texts) -> Flux:
        told = TOLD if self.config.told is None else self.config.told
        return Flux(model, dataset.shape, texts, told, self.config.rounding)


@dataclass(frozen=True)
class QwenConfig(Pipeline):
    """Settings of Qwen-Image; its guidance is away from the empty prompt, two evaluations."""

    pipeline: Location | None = setting(Location("hf://Qwen/Qwen-Image"))
    guidance: float = setting(4.0, least=0)  # scale of classifier-free guidance; 1 is off
    # norm-rescaled: as diffusers' pipeline, which keeps the norm of every token
    rule: str = setting("plain", choices=Guidance.RULES)


class QwenTeacher(TextToImage):
    """Qwen-Image, from a folder of diffusers' or the hub."""

    Config = QwenConfig
    model = "QwenImageTransformer2DModel"
    encoder = QwenEncoder
    parts = ("text_encoder", "tokenizer")
    usual_length = 64

    @property
    def guidance(self) -> Guidance:
        """By its rule."""
        return replace(super().guidance, rule=self.config.rule)

    def _around(self, model: Any, dataset: Dataset, texts: Texts) -> Qwen:
        return Qwen(model, dataset.shape, texts, self.config.rounding)


@dataclass(frozen=True)
class _Blank:
    """Texts of zeros, for a network that is looked at without its prompts."""

    facts: Mapping[str, Any]

    def __call__(self, condition: Any) -> Text:
        n, width = len(condition), int(self.facts["joint_attention_dim"])
        pooled = self.facts.get("pooled_projection_dim")
        return Text(
            torch.zeros(n, 4, width), None, None if pooled is None else torch.zeros(n, pooled)
        )


def _need_transformers() -> None:
    if find_spec("transformers") is None:
        raise UserError(
            "teacher: prompts are encoded with transformers: pip install "
            "'piflow-bench[text-to-image]'"
        )
