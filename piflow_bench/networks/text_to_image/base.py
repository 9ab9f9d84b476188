"""What FLUX's and Qwen-Image's transformers have in common, as backbones.

A diffusers transformer of packed tokens is called up to its last norm; its output layer is taken
out and kept beside it, so that heads read the same hidden state. Latents are unpacked throughout,
``(B, 16, H, W)``; the velocity is eps - x0 at times t in [0, 1], 1 = noise, as everywhere.

The transformer is frozen and in memory once. What is trained is an `Adapted` of it: a role with
adapters, a last norm and an output layer of its own. A copy of the transformer is such a role, so
that a method which copies its teacher's network trains adapters and knows nothing of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from piflow_bench.errors import UserError
from piflow_bench.networks.text_to_image.adapters import Copied, Layers, Roles
from piflow_bench.networks.text_to_image.loading import loaded
from piflow_bench.networks.text_to_image.lora import read_lora
from piflow_bench.networks.text_to_image.packing import PATCH, pack, places_first
from piflow_bench.networks.text_to_image.texts import Text, Texts

ROUNDINGS = ("network", "pipeline")
"""How times are rounded to the network's precision: by itself (pi-Flow's code and ours), or as
diffusers' pipelines do, which round 1000 t first. The same in float32."""
READ = 4
"""Batches whose texts are kept: a guided one, and a student's, of a step and of the one before."""
NORM = "norm_out.linear"
"""The modulation of the last norm: every role has its own."""


class Transformer(nn.Module):
    """A frozen transformer of text-to-image: the field, and the backbone of students.

    Args:
        transformer: of diffusers, with ``norm_out`` and ``proj_out``; it is changed.
        shape: of a latent, (C, H, W).
        texts: the encoded prompts of conditions.
        rounding: one of ``ROUNDINGS``.
    """

    stacks: ClassVar[tuple[str, ...]]
    """Names of its lists of blocks, in order."""

    def __init__(
        self, transformer: Any, shape: tuple[int, ...], texts: Texts, rounding: str = "network"
    ) -> None:
        super().__init__()
        self.output_layer = Copied(transformer.proj_out)
        self.output_layer.to(transformer.proj_out.weight.dtype)
        for value in (self.output_layer.weight, self.output_layer.bias):
            value.data = places_first(value.data)
        transformer.proj_out = nn.Identity()
        self.transformer, self.texts, self.rounding = transformer, texts, rounding
        self.shape = shape
        self.channels, *self.size = shape
        self.grid = tuple(side // PATCH for side in self.size)
        self.dim = self.embedding_dim = int(transformer.inner_dim)
        self.elements = PATCH * PATCH
        self.rank, self.dropout = 1, 0.0
        self.roles = Roles(transformer)
        self._embedding: Tensor | None = None
        self._read: dict[tuple[int, ...], Text] = {}
        transformer.time_text_embed.register_forward_hook(self._keep)
        transformer.enable_gradient_checkpointing(self.roles.recomputed)
        transformer.gradient_checkpointing = False
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Transformer:
        """It stays as it is: nothing of it is trained."""
        return super().train(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapted:
        return Adapted(self, self.rank, self.dropout)

    def with_model(self, path: Path, where: str) -> Transformer:
        """Another model in its place: the same latents and texts, in the same precision.

        Raises:
            UserError: see :meth:`check_model`.
        """
        import diffusers

        self.check_model(path, where)
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        cls = getattr(diffusers, type(self.transformer).__name__)
        model = loaded(cls, folder, self.dtype, use_safetensors=True)
        return self.around(model)

    def check_model(self, path: Path, where: str) -> None:
        """Whether a folder holds a model that reads the same latents and texts.

        Raises:
            UserError: naming what it has otherwise.
        """
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        stated = json.loads((folder / "config.json").read_text())
        own = self.transformer.config
        if stated.get("_class_name") != type(self.transformer).__name__:
            raise UserError(
                f"{where}: a {stated.get('_class_name')}, not a {type(self.transformer).__name__}"
            )
        for name in ("in_channels", "joint_attention_dim", "pooled_projection_dim"):
            if name in own and stated.get(name, own[name]) != own[name]:
                raise UserError(
                    f"{where}: of another family: its {name} is {stated[name]}, the teacher's "
                    f"{own[name]}"
                )

    def around(self, model: Any) -> Transformer:
        """The same around another transformer of its class."""
        raise NotImplementedError

    def adapt_with(self, rank: int, dropout: float) -> None:
        """Have copies that are made from now on change it by adapters of this rank.

        Before that is said, their rank is 1: a state that is loaded brings its own.
        """
        self.rank, self.dropout = rank, dropout

    # ------------------------------------------------------------------ what a kind defines

    @property
    def takes_guidance(self) -> bool:
        """Whether it is told a scale of guidance."""
        return False

    def inputs(self, x: Tensor, t: Tensor, text: Text) -> dict[str, Any]:
        """What the transformer is called with, beside its tokens; t as it wants it."""
        raise NotImplementedError

    def adapted(self) -> list[str]:
        """Names of the layers that adapters change, those of pi-Flow's."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the backbone's contract

    @property
    def checkpointing(self) -> bool:
        """Whether blocks' activations are computed again in the backward pass."""
        return bool(self.transformer.gradient_checkpointing)

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.transformer.gradient_checkpointing = value

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.output_layer.weight.dtype

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(len(getattr(self.transformer, name)) for name in self.stacks)

    def blocks(self) -> list[nn.Module]:
        """Its blocks, in order."""
        return [block for name in self.stacks for block in getattr(self.transformer, name)]

    def trunk(
        self, x: Tensor, t: Tensor, condition: Any, duration: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, T, dim)`` after the last norm, and the embedding of time ``(B, dim)``.

        The embedding holds what else modulates the blocks: FLUX's guidance and pooled text. Both
        have x's precision.

        Raises:
            ValueError: for latents of another size than this network was made for.
        """
        if duration is not None:
            raise TypeError("a text-to-image transformer has no second time input")
        if x.shape[1:] != (self.channels, *self.size):
            made = "x".join(map(str, (self.channels, *self.size)))
            given = "x".join(map(str, x.shape[1:]))
            raise ValueError(f"latents of {given}, but this network is called with {made}")
        found = self.transformer(
            hidden_states=pack(x).to(self.dtype),
            **self.inputs(x, self._rounded(t), self._text(condition, x.device)),
            return_dict=False,
        )[0]
        embedding, self._embedding = self._embedding, None
        assert embedding is not None
        return found.to(x.dtype), embedding.to(x.dtype)

    def project(self, layer: nn.Module, hidden: Tensor, n: int) -> Tensor:
        """A layer's tokens ``(B, T, 4 * n * C')`` as latents ``(B, n, C', H, W)``."""
        flat = layer(hidden)
        images = flat.reshape(len(flat), *self.grid, PATCH, PATCH, n, -1)
        return images.permute(0, 5, 6, 1, 3, 2, 4).reshape(len(flat), n, -1, *self.size)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Outputs as they are."""
        return output

    def features(
        self, x: Tensor, t: Tensor, condition: Any, duration: Tensor | None, depth: int
    ) -> Tensor:
        """Hidden state of the picture's tokens ``(B, dim, *grid)``, normed, after some blocks."""
        with self._shortened(depth):
            hidden, _ = self.trunk(x, t, condition, duration)
        return hidden.transpose(1, 2).unflatten(2, self.grid)

    def feature_shape(self, depth: int) -> tuple[int, ...]:
        """The same at every depth."""
        return self.dim, *self.grid

    def forward(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """Velocity ``(B, C, H, W)`` at times t ``(B,)``, in x's precision."""
        hidden, _ = self.trunk(x, t, condition)
        return self.project(self.output_layer, hidden, 1)[:, 0]

    # ------------------------------------------------------------------ parts

    def _text(self, condition: Any, device: torch.device) -> Text:
        """The batch's texts; a step asks for the same ones again and again."""
        key = tuple(condition.pack().tolist())
        known = self._read.get(key)
        if known is None or known.hidden.device != device or known.hidden.dtype != self.dtype:
            if len(self._read) >= READ:
                self._read.pop(next(iter(self._read)))
            self._read[key] = known = self.texts(condition).to(device, self.dtype)
        return known

    def _rounded(self, t: Tensor) -> Tensor:
        """Times as the network is given them, which rounds them to its own precision."""
        if self.rounding == "pipeline":
            return (1000 * t).to(self.dtype) / 1000
        return t

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._embedding = output

    @contextmanager
    def _shortened(self, depth: int) -> Iterator[None]:
        """Inside it there are the first ``depth`` blocks alone."""
        whole = {name: getattr(self.transformer, name) for name in self.stacks}
        try:
            for name, blocks in whole.items():
                setattr(self.transformer, name, blocks[:depth])
                depth = max(depth - len(blocks), 0)
            yield
        finally:
            for name, blocks in whole.items():
                setattr(self.transformer, name, blocks)


class Adapted(Layers):
    """A role on a shared transformer: the same backbone, with layers of its own that are trained.

    Its state has the keys of pi-Flow's published adapters, and no tensor of the base. A state of
    another rank, or with adapters on other layers, makes it so.
    """

    def __init__(self, base: Transformer, rank: int, dropout: float = 0.0) -> None:
        super().__init__(base.roles, base.adapted(), [NORM], rank, dropout)
        self.output_layer = Copied(base.output_layer)
        self.told: float | None = None
        """The guidance that the network is told in its calls; None: the base's."""
        self._base = (base,)  # In a tuple: it is no module of this one.

    @property
    def base(self) -> Transformer:
        """The frozen transformer."""
        return self._base[0]

    def with_lora(self, path: Path, where: str, scale: float = 1.0) -> dict[str, Tensor]:
        """The state of a role that is the base with a LoRA of another project's tools.

        Raises:
            UserError: if it is none, or of another base.
        """
        found = read_lora(path, self.base.transformer, where, scale)
        kept = {k: v for k, v in self.state_dict().items() if ".lora_" not in k}
        self.shape_as(found)
        return kept | found

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapted:
        other = Adapted(self.base, 1, self.dropout)
        other.load_state_dict(self.state_dict())
        for name, parameter in other.named_parameters():
            own = self.get_parameter(name)
            parameter.data = own.data.clone()
            parameter.requires_grad_(own.requires_grad)
        return other.train(self.training)

    def __getattr__(self, name: str) -> Any:
        """Facts of the base: its dimensions."""
        if name in FACTS:
            return getattr(self.base, name)
        return super().__getattr__(name)

    @property
    def checkpointing(self) -> bool:
        """Of the base, whose blocks they are."""
        return self.base.checkpointing

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.base.checkpointing = value

    def trunk(
        self, x: Tensor, t: Tensor, condition: Any, duration: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As the base's, with its own layers."""
        with self.base.roles.of(self):
            return self.base.trunk(x, t, condition, duration)

    def features(
        self, x: Tensor, t: Tensor, condition: Any, duration: Tensor | None, depth: int
    ) -> Tensor:
        """As the base's, with its own layers."""
        with self.base.roles.of(self):
            return self.base.features(x, t, condition, duration, depth)

    def feature_shape(self, depth: int) -> tuple[int, ...]:
        """As the base's."""
        return self.base.feature_shape(depth)

    def project(self, layer: nn.Module, hidden: Tensor, n: int) -> Tensor:
        """As the base's."""
        return self.base.project(layer, hidden, n)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """As the base's."""
        return self.base.velocity(output, x, t)

    def forward(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """Velocity ``(B, C, H, W)`` at times t ``(B,)``, in x's precision."""
        hidden, _ = self.trunk(x, t, condition)
        return self.project(self.output_layer, hidden, 1)[:, 0]


FACTS = (
    "channels", "size", "grid", "dim", "embedding_dim", "elements", "depth", "dtype",
    "takes_guidance",
)  # fmt: skip
"""What a role has of its base."""
