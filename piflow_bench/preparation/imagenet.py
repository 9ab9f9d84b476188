"""``prepare imagenet``: images to latents on disk, once, so that training never sees a JPEG.

Every shard is written whole or not at all, so a killed run goes on where it was and ends with the
same bytes. Several processes take shards as they come, each with a GPU of its own where there are
several; so do several calls on one folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from piflow_bench.errors import UserError
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.preparation.job import (
    SPOOL,
    SPOOL_LOCK,
    WRITER,
    Job,
    Preparation,
    Report,
    with_spool,
)
from piflow_bench.preparation.processes import in_processes
from piflow_bench.preparation.reference import open_reference, write_reference
from piflow_bench.preparation.shards import encode_shards
from piflow_bench.preparation.sources.opening import open_source
from piflow_bench.preparation.unfinished import begin, finish, is_whole, room
from piflow_bench.settings import build_dataclass
from piflow_bench.threads import cores


def prepare(
    source: str,
    out: str,
    autoencoder: str = "hf://stabilityai/sd-vae-ft-ema",
    batch: int = 32,
    device: str | None = None,
    processes: int = 1,
    report: Report = lambda what, done, total: None,
    **settings: Any,
) -> Path:
    """Encode the images of ``source`` into ``out``; goes on where an earlier call was stopped.

    Args:
        source: see ``sources.opening.open_source``.
        out: the folder of latents.
        autoencoder: see ``Autoencoder.load``.
        batch: images encoded at once; changes no result beyond rounding.
        device: cpu or cuda; None for a GPU where there is one.
        processes: how many encode at once.
        report: called with what is being done, images done and images in all.
        settings: the fields of ``Preparation``.

    Raises:
        UserError: naming what is wrong with the images, the folder or the settings.
    """
    chosen = build_dataclass(Preparation, settings, "")
    folder = Path(out)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: no GPU is available here; use device=cpu")
    images = open_source(Path(source).expanduser(), chosen.classes, chosen.partial)
    coder = Autoencoder.load(autoencoder, device)
    if chosen.size % coder.factor:
        raise UserError(f"size={chosen.size}: must be a multiple of {coder.factor}")
    extractor = open_reference(chosen, folder, device)
    task = {
        **chosen.deciding(),
        "source": images.digest(),
        "autoencoder": coder.digest,
        "scaling": coder.scaling,
        "shift": coder.shift,
        "writer": WRITER,
    }
    threads = max(cores() // processes, 2)
    job = Job(images, folder, chosen, batch, threads, coder)
    with room(folder):
        begin(job, task)
        if not is_whole(job):
            job = with_spool(job, report)
            if processes > 1:
                in_processes(job, autoencoder, device, processes, report)
            else:
                encode_shards(job, report)
            finish(job, task)
        if extractor is not None:
            write_reference(job, extractor, report)
        for name in (SPOOL, Path(SPOOL).with_suffix(".npy"), SPOOL_LOCK):
            (folder / name).unlink(missing_ok=True)
    return folder
