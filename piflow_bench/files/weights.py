"""Weights of the field's files: read without unpickling, the averaged set first, finite."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest

State = dict[str, Tensor]
WEIGHTS = "diffusion_pytorch_model"
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "params", "module")
"""Where a training script's file keeps the weights, if it has no averaged ones."""


class Weights(NamedTuple):
    """What a file or folder holds."""

    state: State
    """Tensors by name."""
    facts: dict[str, Any]
    """The ``config.json`` beside them; empty where there is none."""
    taken: str
    """Which of the file's sets of weights they are, as ``model_ema``; empty if it has one."""


def read_weights(path: Path, values: bool = True) -> Weights:
    """The weights in a file, or in a folder as diffusers writes it.

    Args:
        path: where they are.
        values: whether they are read; else names and shapes alone, on the meta device.

    Raises:
        UserError: if there are no weights, two averaged sets of them, or they cannot be read
            without unpickling objects.
    """
    if path.is_dir():
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        config = folder / "config.json"
        facts = json.loads(config.read_text()) if config.is_file() else {}
        return Weights(_read_folder(folder, values), facts, "")
    state, taken = _read_file(path, values)
    return Weights(state, {}, taken)


def _read_folder(folder: Path, values: bool) -> State:
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [folder / Path(name).name for name in names]
    else:
        files = [p for p in (folder / f"{WEIGHTS}{end}" for end in (".safetensors", ".bin"))
                 if p.is_file()][:1]  # fmt: skip
        if not files:
            files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"checkpoint {folder}: no {WEIGHTS}.safetensors in this folder")
    state: State = {}
    for file in files:
        state |= _read_file(file, values)[0]
    return state


def _read_file(path: Path, values: bool) -> tuple[State, str]:
    """Tensors, and the name of the set that was taken of several."""
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    content = read_content(path, f"checkpoint {path}", values)
    return (content, "") if path.suffix == ".safetensors" else _tensors(content, path)


def read_state(path: Path, where: str) -> State:
    """A file that holds named tensors and nothing else.

    Args:
        path: where it is.
        where: what gave it, for messages.

    Raises:
        UserError: if it would have to be unpickled, is damaged, or holds something else.
    """
    state = read_content(path, where)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{where}: holds something else than named tensors alone")
    return state


def read_content(path: Path, where: str, values: bool = True) -> Any:
    """What a file holds, read without unpickling; of tensors, if asked, the shapes alone.

    Args:
        path: where it is.
        where: what gave it, for messages.
        values: whether tensors' values are read.

    Raises:
        UserError: if it would have to be unpickled, or is damaged.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path) if values else _shapes(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{where}: not readable safetensors ({error}); copy it again"
            ) from error
    try:
        # DiT's and SiT's files hold their command-line arguments, which are plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # To the meta device nothing but the file's directory is read.
            device = "cpu" if values else "meta"
            return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{where}: not a PyTorch file of plain tensors ({reason}); "
            "files that hold code are refused: save the weights with "
            "safetensors.torch.save_file"
        ) from error


def _shapes(path: Path) -> State:
    """The tensors that a safetensors file's header states, on the meta device.

    Single numbers have their values: a LoRA's ``alpha``, by which its layout is converted.
    """
    with safe_open(path, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        return {
            name: torch.empty(shape, device="meta") if shape else file.get_tensor(name)
            for name, shape in shapes.items()
        }


def is_averaged(name: str) -> bool:
    """Whether a name says that the weights are a moving average: ``model_ema``, ``ema_0.9999``."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return "ema" in words and not {"teacher", "optimizer"} & set(words)


def one_averaged(names: Sequence[str], where: str) -> str | None:
    """The averaged set of those named; None if none is.

    Raises:
        UserError: if several are.
    """
    averaged = [name for name in names if is_averaged(name)]
    if len(averaged) > 1:
        raise UserError(
            f"{where}: holds several averaged sets of weights, {' and '.join(sorted(averaged))}; "
            "save the one that is meant in a file of its own"
        )
    return averaged[0] if averaged else None


def _holds_tensors(content: Any) -> bool:
    if isinstance(content, Mapping):
        return any(isinstance(v, Tensor) or _holds_tensors(v) for v in content.values())
    return False


def _tensors(content: Any, path: Path) -> tuple[State, str]:
    taken: list[str] = []
    while isinstance(content, Mapping):
        sets = [str(k) for k, v in content.items() if isinstance(v, Mapping) and _holds_tensors(v)]
        name = one_averaged(sets, f"checkpoint {path}")
        name = name or next((k for k in _NESTED if k in sets), None)
        if name is None:
            break
        if len(sets) > 1:
            taken.append(name)
        content = content[name]
    if not isinstance(content, Mapping):
        raise UserError(f"checkpoint {path}: holds {type(content).__name__}, not named tensors")
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise UserError(f"checkpoint {path}: holds no tensors")
    return state, ".".join(taken)


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are not finite: their samples would become a reference.

    Raises:
        UserError: naming the first tensor.
    """
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise UserError(f"{where}: {bad} of {value.numel()} values of {name} are not finite")


def without_values(network: nn.Module) -> bool:
    """Whether a network is a frame on the meta device."""
    return any(parameter.is_meta for parameter in network.parameters())


def check_shapes(network: nn.Module, state: State, where: str) -> None:
    """Refuse weights of another network, by names and shapes alone.

    Raises:
        UserError: naming what it lacks, has too much, or has otherwise.
    """
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if expected != found:
        missing, extra = (
            sorted(expected.keys() - found.keys()),
            sorted(found.keys() - expected.keys()),
        )
        differ = [k for k in sorted(expected.keys() & found.keys()) if expected[k] != found[k]]
        words = [f"lacks {missing[0]} and {len(missing) - 1} more"] if missing else []
        words += [f"has {extra[0]} and {len(extra) - 1} more that do not belong"] if extra else []
        words += [f"{k} is {found[k]}, not {expected[k]}" for k in differ[:1]]
        raise UserError(f"{where}: weights of another network: {'; '.join(words)}")


def load_into(network: nn.Module, state: State, where: str, assign: bool = False) -> None:
    """``load_state_dict``; one clear line where names or shapes differ, or a number is none."""
    check_shapes(network, state, where)
    check_finite(state, where)
    network.load_state_dict(state, assign=assign)


def weights_digest(folder: Path, where: str) -> str:
    """sha256 of the weights that diffusers wrote into a folder, whatever else lies there.

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
            f"{where}: {pickled.name} is a pickle, which is not read; where you "
            f"trust it: AutoencoderKL.from_pretrained({str(folder)!r}).save_pretrained(FOLDER)"
        )
    raise UserError(f"{where}: no {WEIGHTS}.safetensors in {folder}")
