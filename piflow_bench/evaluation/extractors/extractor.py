"""Loading extractors: by name, and where their weights are looked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.extractor import Extractor, ExtractorPlugin, Recipe
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.errors import UserError, nearest
from piflow_bench.files.atomic import write_atomically
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import read_state
from piflow_bench.precision import PRECISIONS
from piflow_bench.settings import build_dataclass


def get_extractor(
    name: str,
    weights: str | None = None,
    device: str = "cpu",
    precision: str = "float32",
    compiled: bool = False,
    folders: Sequence[str] = (),
) -> Extractor:
    """The extractor plugin of that name, loaded.

    Args:
        name: the plugin's.
        weights: path of its weights; None for the cache folder.
        device: cpu, cuda or cuda:1.
        precision: float32, tf32 or bfloat16.
        compiled: whether ``torch.compile`` takes its network first.
        folders: files and folders of plugins beside the installed ones.
    """
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"device={device}: must be cpu, cuda or one of several GPUs, cuda:1")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: no GPU is available here; use device=cpu")
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision}: {nearest(precision, list(PRECISIONS))}")
    settings = {"weights": weights} if weights else {}
    loaded = extractor_plugin(name, settings, folders).load(name, Place(device))
    network = torch.compile(loaded.network) if compiled else loaded.network
    recipe = Recipe(name, weights, device, precision, compiled, tuple(folders))
    from piflow_bench import registry

    source = registry.find("extractor", folders)[name].foreign_source()
    return replace(loaded, network=network, precision=precision, recipe=recipe, source=source)


def extractor_plugin(
    name: str, settings: Mapping[str, Any], folders: Sequence[str] = (), where: str = "extractor"
) -> ExtractorPlugin:
    """The extractor plugin of that name with its settings; nothing is loaded.

    Raises:
        UserError: for an unknown name, or settings that it has not.
    """
    from piflow_bench import registry

    cls = registry.get("extractor", name, folders)
    found: ExtractorPlugin = cls(build_dataclass(cls.Config, settings, where))
    return found


def usual_batch(device: str) -> int:
    """Images at once: a CPU is faster where their activations stay in its cache."""
    return 4 if torch.device(device).type == "cpu" else 64


def cache_folder() -> Path:
    """Where weights are looked for: ``PIFLOW_BENCH_WEIGHTS``, or a folder in the user's cache."""
    given = os.environ.get("PIFLOW_BENCH_WEIGHTS")
    return Path(given) if given else Path.home() / ".cache" / "piflow_bench" / "weights"


def find_weights(
    name: str,
    given: str | None,
    file: str,
    url: str | None,
    sha256: str,
    setting: str = "extractor.weights",
) -> Path:
    """The weights' file: the given one, the cached one, or the one downloaded from ``url``.

    Args:
        name: the network, for messages.
        given: an explicit path.
        file: name of the file in the cache folder.
        url: where it is published; None if it cannot be downloaded by a plain request.
        sha256: the digest, or its known beginning, that a downloaded file must have.
        setting: what gives the path, for messages.

    Raises:
        UserError: saying which file to put where.
    """
    if given is not None:
        return given_file(given, setting)
    path = cache_folder() / file
    if path.is_file():
        return path
    reason = "it cannot be downloaded here"
    if url is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fetch = partial(torch.hub.download_url_to_file, url, hash_prefix=sha256 or None)
            write_atomically(path, lambda fresh: fetch(str(fresh)))
            return path
        except (OSError, RuntimeError) as error:
            reason = f"downloading failed: {str(error).splitlines()[0]}"
    known = f" (sha256 {sha256}...)" if sha256 else ""
    raise UserError(
        f"{setting}: no weights of {name}, and {reason}; put {file}{known} into {path.parent}, or "
        f"give {setting}=FILE"
    )


def given_file(given: str, setting: str = "extractor.weights") -> Path:
    """The file that a path or an address names.

    Raises:
        UserError: if it is none.
    """
    path = local_path(given, setting)
    if not path.is_file():
        raise UserError(f"{setting}={given}: no such file")
    return path


def weights_requirement(name: str, given: str | None, file: str) -> list[Requirement]:
    """The weights' file of an extractor, for `doctor`."""
    path = given or str(cache_folder() / file)
    mend = f"put {file} there, or extractors.{name}.weights=FILE"
    return [Requirement(f"weights of {name}", path, mend)]


def load_into(network: torch.nn.Module, path: Path) -> torch.nn.Module:
    """``network`` with the weights of ``path``, frozen, in evaluation mode.

    Raises:
        UserError: naming a key or shape that does not fit.
    """
    try:
        network.load_state_dict(read_state(path, f"extractor.weights={path}"))
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"extractor.weights={path}: of another network: {line}") from error
    return network.requires_grad_(False).eval()


def channels_first(images: np.ndarray) -> Tensor:
    """``(b, 3, h, w)`` of ``(b, h, w, 3)``."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def pillow_resized(images: np.ndarray, size: tuple[int, int], filter: int) -> np.ndarray:
    """8-bit images resized by Pillow (antialiased), ``size`` as (width, height)."""
    from PIL import Image

    if images.shape[1:3] == size[::-1]:
        return images
    return np.stack([np.asarray(Image.fromarray(i).resize(size, filter)) for i in images])


def standardised(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images in 0..255 as ``(x / 255 - mean) / std``, ``(b, 3, h, w)`` float32."""
    x = channels_first(images).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
