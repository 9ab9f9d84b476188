"""The tiny transformers that the official numbers in tests/data/t2i are of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from piflow_bench.networks.text_to_image.flux import Flux
from piflow_bench.networks.text_to_image.qwen import Qwen
from piflow_bench.networks.text_to_image.texts import Text

DATA = Path(__file__).parents[2] / "data" / "t2i"
KINDS = ("flux", "qwen")


@dataclass
class Golden:
    """A tiny transformer and the official numbers for it."""

    kind: str
    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]
    base: Any

    def __getitem__(self, name):
        return self.tensors[name]

    @property
    def config(self):
        return self.facts["config"]

    def state(self, name):
        """Tensors ``NAME.*``, without that prefix."""
        start = f"{name}."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


@dataclass(frozen=True)
class Row:
    """A batch of the two conditions of the file, or of as many negative ones."""

    ids: torch.Tensor

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, rows):
        return Row(self.ids[rows])

    def pack(self):
        return self.ids

    def null(self):
        return Row(torch.full_like(self.ids, -1))

    def cat(self, other):
        return Row(torch.cat([self.ids, other.ids]))


def texts_of(tensors):
    """The file's texts by the ids of `Row`; -1 is the negative prompt."""

    def rows(name, negative):
        if f"in.{name}" not in tensors:
            return None
        parts = [tensors[f"in.{name}"]]
        if f"in.{negative}" in tensors:
            parts.append(tensors[f"in.{negative}"])
        return torch.cat(parts)

    hidden = rows("encoder_hidden_states", "negative_hidden_states")
    mask, pooled = (
        rows("encoder_hidden_states_mask", "negative_mask"),
        rows("pooled_projections", "negative_pooled"),
    )

    def of(condition):
        ids = condition.ids
        return Text(
            hidden[ids],
            None if mask is None else mask[ids].bool(),
            None if pooled is None else pooled[ids],
        )

    return of


def transformer(kind, config, **other):
    """A transformer of a kind with the file's sizes, random."""
    import diffusers

    own = {
        "num_layers": config["layers"],
        "attention_head_dim": config["head_dim"],
        "num_attention_heads": config["heads"],
        "joint_attention_dim": config["joint"],
        "axes_dims_rope": tuple(config["axes"]),
        "in_channels": 64,
    }
    if kind == "flux":
        own |= {
            "num_single_layers": config["single"],
            "pooled_projection_dim": config["pooled"],
            "guidance_embeds": True,
        }
        return diffusers.FluxTransformer2DModel(**own | other)
    return diffusers.QwenImageTransformer2DModel(**own | {"out_channels": 16} | other)


def golden(kind, **other):
    """The tiny transformer of a kind, frozen, with its numbers."""
    tensors = load_file(DATA / f"{kind}.safetensors")
    facts = json.loads((DATA / f"{kind}.json").read_text())
    config = facts["config"]
    network = transformer(kind, config, **other)
    found = Golden(kind, tensors, facts, None)
    network.load_state_dict(found.state("teacher"))
    shape = (config["latent_channels"], config["H"], config["W"])
    found.base = (Flux if kind == "flux" else Qwen)(network, shape, texts_of(tensors))
    return found


def by_row(tiny, network):
    """A network's outputs at the file's queries, whose guidance differs by sample in FLUX's."""
    found = []
    for i in range(2):
        if tiny.kind == "flux":
            tiny.base.guidance = float(tiny["in.guidance"][i])
        row = torch.tensor([i])
        found.append(network(tiny["in.x"][row], tiny["in.t"][row], Row(row)))
    if isinstance(found[0], dict):
        return {k: torch.cat([f[k] for f in found]) for k in found[0]}
    return torch.cat(found)


CONDITION = Row(torch.arange(2))


def close(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    difference = (actual - expected).abs() / (1 + expected.abs())
    assert difference.max() <= tolerance, float(difference.max())
