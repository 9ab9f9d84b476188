"""DreamSim's ensemble (Fu et al. 2023, arXiv:2306.09344): three vision transformers and their LoRA.

As its published weights are read by the package dreamsim 0.2.1. DINO gives the class token of its
last block, before the norm that follows. The two CLIPs give theirs after it, projected; their
patches have a bias, and a norm stands before the first block. OpenAI's CLIP has QuickGELU,
OpenCLIP's has GELU. LoRA changes the layers ``qkv`` alone and is added to their weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from piflow_bench.errors import UserError
from piflow_bench.files.weights import State, check_finite, load_into

SIDE = 224
HEAD = 64
"""Numbers of an attention head, in DINO's and CLIP's networks of every width."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PLAIN = {
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""What a LoRA that is ``W + alpha / r * B A`` says of itself, if it says so."""


class Kind(NamedTuple):
    """What a network's tensors do not say."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    eps: float
    """Of its norms."""
    quick: bool
    """Whether its activation is ``x sigmoid(1.702 x)``, in the place of GELU."""
    projected: bool
    """Whether it is a CLIP: a norm before the blocks, and a projection after the last norm."""


DINO = Kind(*IMAGENET, eps=1e-6, quick=False, projected=False)
OPENAI_CLIP = Kind(*CLIP, eps=1e-5, quick=True, projected=True)
OPEN_CLIP = Kind(*CLIP, eps=1e-5, quick=False, projected=True)
KINDS = (DINO, OPENAI_CLIP, OPEN_CLIP)
"""In the order in which their outputs are joined, and LoRA's file counts them."""


class Part(NamedTuple):
    """A network's tensors, and what gave them, for messages."""

    state: State
    where: str


class Adapter(NamedTuple):
    """LoRA of all networks."""

    state: State
    """By names as ``base_model.model.extractor_list.0.model.blocks.0.attn.qkv.lora_A.weight``."""
    rank: int
    scale: float
    """``alpha / r``."""
    where: str


class Tower(nn.Module):
    """One of the networks, on pictures in 0..1.

    Args:
        network: timm's vision transformer.
        kind: how pictures are standardised.
        projection: ``(width, d)`` of a CLIP; None: the class token itself.
    """

    mean: Tensor
    std: Tensor
    projection: Tensor | None

    def __init__(self, network: nn.Module, kind: Kind, projection: Tensor | None) -> None:
        super().__init__()
        self.network: Any = network
        self.register_buffer("mean", torch.tensor(kind.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(kind.std)[:, None, None])
        self.register_buffer("projection", projection)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, d)`` of pictures ``(b, 3, 224, 224)``."""
        token: Tensor = self.network.forward_features((x - self.mean) / self.std)[:, 0]
        return token if self.projection is None else token @ self.projection


class Ensemble(nn.Module):
    """The joined outputs, centred and of norm 1: 1 - cosine of two is DreamSim's distance.

    Args:
        towers: in the order of ``KINDS``.
    """

    def __init__(self, towers: Sequence[Tower]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, 1792)``, of the published weights, of pictures ``(b, 3, 224, 224)`` in 0..1."""
        # Under autocast the towers give 16 bits, too few for what is compared.
        joined = torch.cat([tower(x) for tower in self.towers], dim=1).float()
        centred = joined - joined.mean(1, keepdim=True)  # Over a picture's own entries.
        return nn.functional.normalize(centred, dim=1)


def read_adapter(state: State, config: Any, where: str, where_config: str) -> Adapter:
    """LoRA of its two files.

    Args:
        state: the tensors.
        config: what ``adapter_config.json`` holds.
        where: what gave the tensors, for messages.
        where_config: what gave ``config``.

    Raises:
        UserError: if the configuration is not of a plain LoRA.
    """
    facts = config if isinstance(config, Mapping) else {}
    rank, alpha = facts.get("r"), facts.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(f"{where_config}: has no r and lora_alpha of a LoRA")
    for name, plain in PLAIN.items():
        if facts.get(name) and facts[name] != plain:
            raise UserError(f"{where_config}: {name}={facts[name]} is not DreamSim's")
    return Adapter(state, rank, alpha / rank, where)


def ensemble(parts: Sequence[Part], adapter: Adapter) -> Ensemble:
    """The network of these tensors, LoRA added; depths and widths are those of the tensors.

    Raises:
        UserError: naming what does not belong.
    """
    towers = [
        _tower({name: value.float() for name, value in part.state.items()}, kind, part.where)
        for part, kind in zip(parts, KINDS, strict=True)
    ]
    layers = _layers(towers)
    _check_adapter(adapter, layers)
    with torch.no_grad():
        for prefix, layer in layers.items():
            down, up = (adapter.state[f"{prefix}.lora_{x}.weight"].float() for x in "AB")
            layer.weight += adapter.scale * (up @ down)
    return Ensemble(towers)


def _tower(state: State, kind: Kind, where: str) -> Tower:
    projection = state.pop("proj", None)
    if not kind.projected:
        network = _transformer(state, kind, where)
        load_into(network, state, where)
        network.norm = nn.Identity()  # The class token is taken before it.
        return Tower(network, kind, None)
    network = _transformer(state, kind, where)
    width = network.embed_dim
    if projection is None or projection.ndim != 2 or len(projection) != width:
        raise UserError(f"{where}: weights of another network: has no proj of {width} rows")
    # Not timm's `pre_norm`: with that, patches would have no bias.
    network.norm_pre = nn.LayerNorm(width, eps=kind.eps)
    renamed = {re.sub(r"^pos_drop\.", "norm_pre.", name): v for name, v in state.items()}
    load_into(network, renamed, where)
    check_finite({"proj": projection}, where)
    return Tower(network, kind, projection)


def _transformer(state: State, kind: Kind, where: str) -> Any:
    """timm's network of the sizes of the tensors."""
    from timm.layers.activations import QuickGELU
    from timm.models.vision_transformer import VisionTransformer

    patches, hidden = state.get("patch_embed.proj.weight"), state.get("blocks.0.mlp.fc1.weight")
    if patches is None or hidden is None or patches.ndim != 4 or patches.shape[0] % HEAD:
        raise UserError(f"{where}: weights of another network: not a ViT with heads of {HEAD}")
    width, _, patch, _ = patches.shape
    return VisionTransformer(
        img_size=SIDE,
        patch_size=patch,
        num_classes=0,
        embed_dim=width,
        depth=_depth(state),
        num_heads=width // HEAD,
        mlp_ratio=hidden.shape[0] / width,
        norm_layer=partial(nn.LayerNorm, eps=kind.eps),
        act_layer=QuickGELU if kind.quick else nn.GELU,
        weight_init="skip",
    )


def _depth(state: Mapping[str, Tensor]) -> int:
    found = (re.match(r"blocks\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _layers(towers: Sequence[Tower]) -> dict[str, Any]:
    """The layers that LoRA changes, by what begins the names of its tensors."""
    return {
        f"base_model.model.extractor_list.{index}.model.blocks.{number}.attn.qkv": block.attn.qkv
        for index, tower in enumerate(towers)
        for number, block in enumerate(tower.network.blocks)
    }


def _check_adapter(adapter: Adapter, layers: Mapping[str, Any]) -> None:
    """Refuse a LoRA of other layers, another rank or other widths."""
    expected: dict[str, tuple[int, ...]] = {}
    for prefix, layer in layers.items():
        expected[f"{prefix}.lora_A.weight"] = (adapter.rank, layer.in_features)
        expected[f"{prefix}.lora_B.weight"] = (layer.out_features, adapter.rank)
    found = {name: tuple(value.shape) for name, value in adapter.state.items()}
    for name in expected:
        if name not in found:
            raise UserError(f"{adapter.where}: LoRA of another network: lacks {name}")
        if found[name] != expected[name]:
            raise UserError(
                f"{adapter.where}: LoRA of another network or rank: {name} is {found[name]}, "
                f"not {expected[name]}"
            )
    for name in sorted(found.keys() - expected.keys()):
        raise UserError(f"{adapter.where}: LoRA of another network: has {name}")
    check_finite(adapter.state, adapter.where)
