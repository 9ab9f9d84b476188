"""Opening sets of images, whatever they are kept in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.archives import ENDINGS, is_archive, open_archive
from piflow_bench.evaluation.pictures.arrays import in_memory, open_npy
from piflow_bench.evaluation.pictures.batches import given_once
from piflow_bench.evaluation.pictures.files import EXTENSIONS
from piflow_bench.evaluation.pictures.folders import open_folder
from piflow_bench.evaluation.pictures.images import Images, printable
from piflow_bench.evaluation.pictures.npz import open_npz
from piflow_bench.evaluation.pictures.spaces import Look
from piflow_bench.evaluation.pictures.stored import (
    SAMPLES,
    is_artifact,
    open_artifact,
    open_cell,
    shards_of,
)

OTHER_ARCHIVES = (".gz", ".xz", ".bz2", ".zst", ".7z", ".rar")


def open_images(
    source: Any, what: str = "samples", workers: int = 2, look: Look | None = None
) -> Images:
    """Images of a folder, a zip or tar file, an ``.npz`` or ``.npy`` file, or of what Python holds.

    The images of a folder or an archive come in natural order (2.png before 10.png) and are classed
    by subfolders, those of an npz file, or of a folder of npz files, by ``arr_1``. An artifact of
    the store (``samples.npy`` with its record) is an input as well, and so is a folder of the
    artifacts that are shards of one cell: the space that they lie in makes pictures of them.

    Args:
        source: a path; a uint8 array or tensor, ``(n, h, w, 3)`` or ``(n, 3, h, w)``, also with one
            channel; floats in [0, 1]; a dataset or list whose items are such images or Pillow's; or
            what gives batches of them one after the other, also with labels (a generator, a
            DataLoader), which is read once.
        what: the setting's name, for messages.
        workers: threads that decode files.
        look: what it takes to look at a run's samples; None for nothing beside them.

    Raises:
        UserError: naming the path and what is wrong with it.
    """
    look = look or Look()
    found = _open(source, what, workers, look)
    return replace(
        found,
        path=printable(found.path),
        warnings=tuple(map(printable, found.warnings)),
        source=None if given_once(source) else source,
        workers=workers,
        look=look,
    )


def _open(source: Any, what: str, workers: int, look: Look) -> Images:
    if not isinstance(source, str | Path):
        return in_memory(source, what)
    path = Path(source)
    # Its file alone does not say what its floats are.
    artifact = path.parent if path.name == SAMPLES else path
    if is_artifact(artifact):
        return open_artifact(artifact, what, look)
    if shards := shards_of(path):
        return open_cell(path, shards, what, look)
    if path.is_dir():
        return open_folder(path, what, workers)
    if not path.exists():
        raise UserError(f"{what}={source}: no such file or folder")
    suffix = path.suffix.lower()
    if (suffix in (".npz", ".npy") or is_archive(path)) and not path.is_file():
        raise UserError(f"{what}={source}: no file")
    if is_archive(path):
        return open_archive(path, what, workers)
    if suffix == ".npz":
        return open_npz(path, what)
    if suffix == ".npy":
        return open_npy(path, what)
    if suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise UserError(
            f"{what}={source}: pickled files are not read; save the images as uint8 with "
            "numpy.savez(FILE, arr_0=images)"
        )
    ways = "neither a folder of images, an archive of them, nor a .npz or .npy file"
    if suffix in OTHER_ARCHIVES:
        ways = f"an archive that is not read; unpack it, or pack it as {', '.join(ENDINGS)}"
    if suffix in EXTENSIONS:
        ways = "one image; give the folder of all of them"
    raise UserError(f"{what}={source}: {ways}")
