"""CLIP-FlanT5 from its published folder: what is read of it, its digest, and its networks.

Weights are read by their published names and never through transformers, whose T5 ties the output
layer to the embedding: FLAN-T5 has two.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import cache_folder
from piflow_bench.evaluation.vqascore import ClipT5
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import State, load_into, read_state

FOLDER = "clip-flant5-xxl"
ADDRESS = f"zhiqiulin/{FOLDER}"
SIZE = "22.9 GB"
"""In 16 bits: 11.1 billion weights of T5, 0.3 of the tower, 0.02 of the projector."""
SETTING = "scorers.vqascore.weights"
TOWER = "vision_tower"
"""Subfolder of a tower that lies beside the weights."""
KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    }
}
"""Shapes of towers that are named in place of a folder; the checkpoint has their weights."""
TOKENIZERS = ("tokenizer.json", "spiece.model")
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
KINDS = ("model.safetensors", "pytorch_model.bin")


def find_folder(given: str | None) -> Path:
    """The folder of the weights: the given one, or the one in the cache folder.

    Raises:
        UserError: if there is none, or transformers is not installed.
    """
    if find_spec("transformers") is None:
        raise UserError(
            "vqascore: its network is built with transformers: pip install "
            "'piflow-bench[text-to-image]'"
        )
    if given is None:
        folder = cache_folder() / FOLDER
        if not folder.is_dir():
            raise UserError(f"{SETTING}: no weights of vqascore; {mend()}")
        return folder
    folder = local_path(given, SETTING)
    if not folder.is_dir():
        raise UserError(f"{SETTING}={given}: not a folder, as {ADDRESS} is one")
    return folder


def mend() -> str:
    """The command that brings the weights, for `doctor`."""
    place = cache_folder() / FOLDER
    return f"hf download {ADDRESS} --local-dir {place} ({SIZE}), or {SETTING}=FOLDER"


def digest_of(folder: Path) -> str:
    """sha256 of all that is read from the folder, and from its tower's.

    Raises:
        UserError: if weights or their config are missing.
    """
    tower = _tower_folder(folder, _facts(folder))
    whole = hashlib.sha256()
    for part, place in (("", folder), ("tower", tower)):
        if place is None:
            continue
        names = ["config.json", *_shards(place), *(TOKENIZERS + BESIDE if not part else ())]
        for name in names:
            if (place / name).is_file():
                whole.update(f"{part}/{name}\0{digest(place / name)}\n".encode())
    return whole.hexdigest()


def _facts(folder: Path) -> dict[str, Any]:
    """The config of the weights."""
    path = folder / "config.json"
    if not path.is_file() or not _shards(folder):
        lacks = "config.json" if not path.is_file() else " or ".join(KINDS)
        raise UserError(f"{SETTING}={folder}: no {lacks} there, as {ADDRESS} has it")
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{SETTING}={folder}: config.json is not JSON ({error})") from error
    if not isinstance(facts, dict):
        raise UserError(f"{SETTING}={folder}: config.json holds no settings")
    return facts


def _shards(folder: Path) -> list[str]:
    """Names of the files of a folder's weights."""
    for kind in KINDS:
        index = folder / f"{kind}.index.json"
        if index.is_file():
            listed = json.loads(index.read_text())["weight_map"].values()
            return sorted({Path(name).name for name in listed})
        if (folder / kind).is_file():
            return [kind]
    return []


def _tower_folder(folder: Path, facts: Mapping[str, Any]) -> Path | None:
    """The folder of the vision tower; None where the config names one of the hub's."""
    named = str(facts.get("mm_vision_tower") or "")
    places = [folder / TOWER, *([folder / named, Path(named)] if named else [])]
    return next((place for place in places if (place / "config.json").is_file()), None)


def load(folder: Path, device: str = "cpu") -> ClipT5:
    """The network: in 16 bits (bfloat16) on a GPU, in 32 on a CPU.

    Args:
        folder: as published: ``config.json``, ``pytorch_model*.bin`` or ``model*.safetensors``, a
            T5's tokenizer. Where its weights have no vision tower, or its config names none that
            is known: that of CLIP, in the subfolder ``vision_tower``.
        device: cpu, cuda or cuda:1.

    Raises:
        UserError: naming what is missing, or of another network.
    """
    where, facts = f"{SETTING}={folder}", _facts(folder)
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    tokenizer = _tokenizer(folder, where)
    beside = _tower_folder(folder, facts)
    t5_state, tower_state, projector_state = _parts(folder, device, dtype, where)
    if not projector_state:
        raise UserError(f"{where}: no mm_projector among the weights: no CLIP-FlanT5, as {ADDRESS}")
    if not tower_state and beside is not None:
        tower_state = _clip_state(beside, device, dtype, f"{where}, {beside.name}")
    tower = _tower(facts, beside, where) if tower_state else None
    if tower is None:
        raise UserError(
            f"{where}: no vision tower among the weights, and none of "
            f"{facts.get('mm_vision_tower')} in {folder / TOWER}: hf download "
            f"{next(iter(KNOWN_TOWERS))} --local-dir {folder / TOWER} (1.7 GB)"
        )
    t5 = _t5(facts, where)
    projector = _projector(facts, tower.config.hidden_size, t5.config.d_model, where)
    # What releases of transformers call the tower's parts has changed.
    prefix = (
        "vision_model." if any(k.startswith("vision_model.") for k in tower.state_dict()) else ""
    )
    load_into(tower, {f"{prefix}{k}": v for k, v in tower_state.items()}, f"{where}, {TOWER}", True)
    load_into(projector, projector_state, f"{where}, mm_projector", True)
    load_into(t5, t5_state, where, True)
    for part in (t5, tower, projector):
        part.to(device).requires_grad_(False).eval()
    layer = int(facts.get("mm_vision_select_layer", -2))
    kept = facts.get("mm_vision_select_feature", "patch")
    if kept not in ("patch", "cls_patch"):
        raise UserError(f"{where}: mm_vision_select_feature={kept}: must be patch or cls_patch")
    return ClipT5(t5, tower, projector, tokenizer, layer, int(kept == "patch"))


def _tokenizer(folder: Path, where: str) -> Any:
    from transformers import T5Tokenizer

    from_flan = f"take {TOKENIZERS[0]} of google/flan-t5-xxl"
    if not any((folder / name).is_file() for name in TOKENIZERS):  # transformers would invent one.
        raise UserError(f"{where}: no {' or '.join(TOKENIZERS)} there; {from_flan}")
    try:
        return T5Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # Its readers raise errors of many kinds.
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: its tokenizer cannot be read ({line}); {from_flan}") from error


def _parts(folder: Path, device: str, dtype: torch.dtype, where: str) -> tuple[State, State, State]:
    """The weights of T5, of the tower and of the projector, by the networks' own names.

    One file is in memory at a time, beside what is on the device already.
    """
    t5: State = {}
    tower: State = {}
    projector: State = {}
    for shard in _shards(folder):
        for full, value in read_state(folder / shard, f"{where}, {shard}").items():
            name = full.removeprefix("model.")
            if name.startswith("mm_projector."):
                projector[name.removeprefix("mm_projector.")] = value.to(device, dtype)
            elif name.startswith("vision_tower."):
                inner = name.removeprefix("vision_tower.").removeprefix("vision_tower.")
                tower[inner] = value.to(device, dtype)
            elif not name.endswith("embed_tokens.weight"):  # It is the shared one.
                t5[name] = value.to(device, dtype)
    if "shared.weight" in t5:
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            t5[name] = t5["shared.weight"]
        t5.setdefault("lm_head.weight", t5["shared.weight"])  # The first T5 has one for both.
    return t5, _named_as_clip(tower), projector


def _named_as_clip(state: State) -> State:
    """Without the prefix of a whole CLIP, and without what older releases counted."""
    return {
        name.removeprefix("vision_model."): value
        for name, value in state.items()
        if not name.endswith("position_ids")
    }


def _clip_state(folder: Path, device: str, dtype: torch.dtype, where: str) -> State:
    """The vision tower's weights of a CLIP's folder; those of its other half are left there."""
    state: State = {}
    for shard in _shards(folder):
        state |= read_state(folder / shard, where)
    whole = any(name.startswith("vision_model.") for name in state)
    mine = {k: v for k, v in state.items() if not whole or k.startswith("vision_model.")}
    return _named_as_clip({k: v.to(device, dtype) for k, v in mine.items()})


def _tower(facts: Mapping[str, Any], beside: Path | None, where: str) -> Any:
    """CLIP's vision tower, with weights of chance; None where nothing says its shape."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    if beside is None:
        known = KNOWN_TOWERS.get(facts.get("mm_vision_tower", ""))
        return None if known is None else CLIPVisionModel(CLIPVisionConfig(**known))
    try:
        config = CLIPVisionConfig.from_pretrained(beside, local_files_only=True)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: no config of a vision tower in {beside.name}: {line}") from error
    return CLIPVisionModel(config)


def _t5(facts: Mapping[str, Any], where: str) -> Any:
    """T5 without memory for its weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    foreign = ("model_type", "architectures", "torch_dtype", "dtype", "transformers_version")
    own = {k: v for k, v in facts.items() if not k.startswith("mm_") and k not in foreign}
    own.setdefault("decoder_start_token_id", own.get("pad_token_id", 0))
    try:
        with torch.device("meta"):
            return T5ForConditionalGeneration(T5Config(**own))
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: config.json is of no T5: {line}") from error


def _projector(facts: Mapping[str, Any], seen: int, width: int, where: str) -> nn.Sequential:
    """``mlp2x_gelu``: so many linear layers from the tower's width to T5's, GELU between them."""
    kind = str(facts.get("mm_projector_type", "mlp2x_gelu"))
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if match is None:
        raise UserError(
            f"{where}: mm_projector_type={kind}: only mlp2x_gelu and its like are built"
        )
    layers: list[nn.Module] = [nn.Linear(seen, width)]
    for _ in range(1, int(match[1])):
        layers += [nn.GELU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)
