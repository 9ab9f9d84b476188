"""DreamSim's ensemble (Fu et al. 2023), by which OneIG-Benchmark measures diversity: d 1792.

Its weights are the unpacked archive of the package's release. Nothing is downloaded, and the
package is not needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from piflow_bench.contracts.extractor import FEATURES, Extractor, ExtractorPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.dreamsim_network import (
    SIDE,
    Part,
    ensemble,
    read_adapter,
)
from piflow_bench.evaluation.extractors.extractor import (
    cache_folder,
    channels_first,
    pillow_resized,
)
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import in_cache, local_path
from piflow_bench.files.weights import State, read_content, read_weights

NAME = "dreamsim_ensemble_checkpoint"
URL = f"https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints/{NAME}.zip"
UNPACK = f"unpack {URL} (1.26 GB)"
ADAPTER = "ensemble_lora/adapter_model.safetensors", "ensemble_lora/adapter_model.bin"
FILES: tuple[tuple[str, ...], ...] = (
    # The backbone alone, which the package itself downloads and leaves in its folder, if it lies
    # there; else the archive's file, which holds it as the teacher of DINO's training.
    ("checkpoints/dino_vitbase16_pretrain.pth", "dino_vitb16_pretrain.pth"),
    ("clip_vitb16_pretrain.pth.tar",),
    ("open_clip_vitb16_pretrain.pth.tar",),
    ADAPTER,
    ("ensemble_lora/adapter_config.json",),
)
"""What is read; of several names the first that is there."""


def find_files(folder: Path) -> list[Path]:
    """The files that are read, in the order of ``FILES``, up to the first that is not there."""
    found = []
    for names in FILES:
        there = next((folder / name for name in names if (folder / name).is_file()), None)
        found.append(there or folder / names[-1])
        if there is None:
            break
    return found


class DreamSim(ExtractorPlugin):
    """DreamSim's ensemble of DINO, CLIP and OpenCLIP ViT-B/16 with LoRA: unit vectors."""

    rule = f"Pillow bicubic to {SIDE}"
    seconds = 1.0

    def requirements(self) -> list[Requirement]:
        """The folder, or the first file that it lacks."""
        source = self.config.weights or str(cache_folder() / NAME)
        folder = in_cache(source)
        last = find_files(folder)[-1] if folder is not None else None
        lacking = str(last) if last is not None and not last.is_file() else source
        mend = f"{UNPACK} there, or extractors.dreamsim.weights=FOLDER"
        return [Requirement("weights of dreamsim", lacking, mend)]

    def file(self) -> Path:
        """The folder of the unpacked archive; none of its files is missing."""
        given = self.config.weights
        folder = cache_folder() / NAME if given is None else local_path(given, "extractor.weights")
        for path in find_files(folder):
            if not path.is_file():
                put = f"{UNPACK} into {folder}, or give extractor.weights=FOLDER"
                raise UserError(f"extractor.weights: no {path}; {put}")
        return folder

    def identity(self) -> Mapping[str, Any]:
        """Rule and digest of the files that are read, not of what else lies in the folder."""
        folder = self.file()
        whole = hashlib.sha256()
        for path in find_files(folder):
            whole.update(f"{path.relative_to(folder)}\0{digest(path)}\n".encode())
        return {"rule": self.rule, "weights": whole.hexdigest()}

    def load(self, name: str, place: Place) -> Extractor:
        """The three networks, LoRA added."""
        dino, clip, open_clip, adapter, config = find_files(self.file())
        parts = [
            Part(_backbone(dino), _where(dino)),
            *(Part(read_weights(path).state, _where(path)) for path in (clip, open_clip)),
        ]
        lora = read_adapter(
            read_weights(adapter).state, _json(config), _where(adapter), _where(config)
        )
        network = ensemble(parts, lora).requires_grad_(False).eval().to(place.device)

        def prepare(images: np.ndarray) -> Tensor:
            from PIL import Image

            resized = pillow_resized(images, (SIDE, SIDE), Image.Resampling.BICUBIC)
            return channels_first(resized).float() / 255

        def outputs(x: Tensor) -> dict[str, Tensor]:
            return {FEATURES: network(x)}

        return self.loaded(name, place, prepare, outputs)


def _where(path: Path) -> str:
    return f"extractor.weights: {path}"


def _backbone(path: Path) -> State:
    """DINO's backbone, of a file that holds it alone or of a training's checkpoint."""
    content = read_content(path, _where(path))
    if isinstance(content, Mapping) and "student" in content and "teacher" not in content:
        raise UserError(
            f"{_where(path)}: has no teacher; put the backbone, dino_vitbase16_pretrain.pth of "
            f"dl.fbaipublicfiles.com/dino, beside it as {FILES[0][0]}"
        )
    if isinstance(content, Mapping) and isinstance(content.get("teacher"), Mapping):
        content = {
            name.removeprefix("module.").removeprefix("backbone."): value
            for name, value in content["teacher"].items()
            if name.removeprefix("module.").startswith("backbone.")
        }
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{_where(path)}: holds something else than DINO's weights")
    return dict(content)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{_where(path)}: not JSON ({error})") from error
