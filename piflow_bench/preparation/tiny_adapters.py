"""Small adapters of tiny pipelines, and a small CLIP, in the formats that are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piflow_bench.networks.text_to_image.base import Adapted
from piflow_bench.networks.text_to_image.flux import Flux
from piflow_bench.networks.text_to_image.loading import loaded
from piflow_bench.networks.text_to_image.published import write_adapter
from piflow_bench.networks.text_to_image.qwen import Qwen
from piflow_bench.preparation.tiny_pipelines import WIDTH

ADAPTER = {"rank": 4, "logstd_inner": 16, "components": 8, "estimates": 10}
"""Sizes of the adapters."""


@torch.no_grad()
def tiny_adapter(pipeline: Path, folder: Path, policy: str, seed: int = 0) -> None:
    """A student of a tiny pipeline in the form of pi-Flow's published adapters.

    Args:
        pipeline: of :func:`tiny_flux` or :func:`tiny_qwen`.
        folder: to write.
        policy: gm or dx.
        seed: of its changes, which are small.
    """
    import diffusers

    kinds = {"FluxTransformer2DModel": Flux, "QwenImageTransformer2DModel": Qwen}
    config = json.loads((pipeline / "transformer" / "config.json").read_text())
    cls = getattr(diffusers, config["_class_name"])
    model = loaded(cls, pipeline / "transformer", torch.float32)
    base = kinds[config["_class_name"]](model, (16, 8, 8), lambda condition: None)
    role = Adapted(base, ADAPTER["rank"])
    generator = torch.Generator().manual_seed(seed)
    state = {k: v for k, v in role.state_dict().items() if not k.startswith("output_layer")}
    for name, value in state.items():
        if not name.endswith("lora_A.weight"):
            value += 0.02 * torch.randn(value.shape, generator=generator)
    own = {k: v for k, v in config.items() if not k.startswith("_")}
    layer = base.output_layer
    if policy == "gm":
        k, inner = ADAPTER["components"], ADAPTER["logstd_inner"]
        means = {"weight": _repeated(layer.weight, k), "bias": _repeated(layer.bias, k)}
        means["bias"] += 0.05 * torch.randn(means["bias"].shape, generator=generator)
        state |= {f"proj_out_means.{part}": value for part, value in means.items()}
        state["proj_out_logweights.weight"] = torch.zeros(4 * k, base.dim)
        state["proj_out_logweights.bias"] = torch.zeros(4 * k)
        hidden = torch.randn(inner, base.dim, generator=generator) / base.dim**0.5
        state["proj_out_logstds.1.weight"], state["proj_out_logstds.1.bias"] = (
            hidden,
            torch.zeros(inner),
        )
        state["proj_out_logstds.3.weight"] = torch.zeros(1, inner)
        state["proj_out_logstds.3.bias"] = torch.full((1,), 0.05).log()
        stated: dict[str, Any] = {"type": "GMFlow"}
        own |= {"num_gaussians": k, "logstd_inner_dim": inner}
    else:
        n = ADAPTER["estimates"]
        for part in ("weight", "bias"):
            state[f"proj_out_2.{part}"] = _repeated(getattr(layer, part), n)
        stated = {"type": "DX", "segment_size": 1 / 3.5, "shift": 3.2}
        own |= {"out_channels": 64 * n, "patch_size": 1}
    name = f"{policy.upper()}{config['_class_name']}"
    write_adapter(folder, state, stated, {"_class_name": name, **own})


def _repeated(rows: Tensor, n: int) -> Tensor:
    """A layer's outputs, as (4, C), repeated as (4, n, C)."""
    parts = rows.reshape(4, 1, -1, *rows.shape[1:])
    return parts.expand(-1, n, *parts.shape[2:]).reshape(n * len(rows), *rows.shape[1:]).clone()


@torch.no_grad()
def tiny_lora(pipeline: Path, path: Path, rank: int = 4, seed: int = 0) -> None:
    """A LoRA of the attention, in the layouts that FLUX's and Qwen-Image's published ones have.

    FLUX.1-Turbo's is diffusers' own; Qwen-Image-Lightning's has kohya's names and an alpha.
    """
    import diffusers
    from safetensors.torch import save_file

    config = json.loads((pipeline / "transformer" / "config.json").read_text())
    cls = getattr(diffusers, config["_class_name"])
    model = loaded(cls, pipeline / "transformer", torch.float32)
    kohya = config["_class_name"].startswith("Qwen")
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, layer in model.named_modules():
        if not name.endswith(("to_q", "to_k", "to_v")):
            continue
        a = torch.randn(rank, layer.in_features, generator=generator) / rank
        b = 0.05 * torch.randn(layer.out_features, rank, generator=generator)
        if kohya:
            state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"] = a, b
            state[f"{name}.alpha"] = torch.tensor(rank / 2)
        else:
            state[f"transformer.{name}.lora_A.weight"] = a
            state[f"transformer.{name}.lora_B.weight"] = b
    save_file(state, path)


def tiny_clip(folder: Path) -> None:
    """A CLIP of both encoders, in the format that open_clip's models have on the hub."""
    from open_clip import CLIP
    from safetensors.torch import save_file

    architecture: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": WIDTH,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": WIDTH,
            "heads": 2,
            "layers": 2,
        },
    }
    folder.mkdir(parents=True)
    network = CLIP(**architecture)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": architecture, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
