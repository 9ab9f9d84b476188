"""Opening training images, whatever they are kept in, and seeing that they are all there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from piflow_bench.errors import UserError
from piflow_bench.preparation.sources.folders import class_folders
from piflow_bench.preparation.sources.parquet import parquet_files, parquet_shards
from piflow_bench.preparation.sources.source import ImageSource
from piflow_bench.preparation.sources.tars import is_tar, tarred

IMAGENET_CLASSES, IMAGENET_COUNT = 1000, 1_281_167
"""Of the whole training set of ImageNet-1k."""


def open_source(path: Path, classes: int, partial: bool = False) -> ImageSource:
    """The images of a folder of class folders, a tar of them, a tar of tars, or parquet files.

    Of a folder or tar with ``train/`` in it, and of parquet files with ``train-`` in their names,
    only those are taken: the others are other splits.

    Args:
        path: the folder or file.
        classes: how many there must be; with 1000 they must be ImageNet-1k's.
        partial: whether some of ImageNet's images may be absent.

    Raises:
        UserError: if it is none of these, or its classes or images are not the expected ones.
    """
    if not path.exists():
        raise UserError(f"source={path}: no such file or folder")
    shards = parquet_files(path)
    if shards:
        source = parquet_shards(shards, path, classes)
    elif path.is_dir():
        source = class_folders(path / "train" if (path / "train").is_dir() else path)
    elif path.suffix != ".parquet" and is_tar(path):
        source = tarred(path)
    else:
        raise UserError(
            f"source={path}: needs a folder of class folders, a tar file, or parquet files"
        )
    _check(source, classes, path, partial)
    return source


def _check(source: ImageSource, classes: int, path: Path, partial: bool) -> None:
    if not len(source):
        raise UserError(f"source={path}: no images in it")
    known = synsets() if classes == IMAGENET_CLASSES else None
    if known and source.classes is not None:
        _check_synsets(source.classes, known, path)
    if source.classes is not None and len(source.classes) != classes:
        raise UserError(
            f"source={path}: {len(source.classes)} classes, {classes} expected; complete it, or "
            f"set classes={len(source.classes)}"
        )
    strange = next((i for i, label in enumerate(source.labels) if not 0 <= label < classes), None)
    if strange is not None:
        raise UserError(
            f"source={path}: {source.names[strange]} has label {source.labels[strange]}, but "
            f"labels are 0 to {classes - 1}; test images have none: give the training images "
            "alone, or set classes="
        )
    counts = Counter(source.labels)
    empty = [label for label in range(classes) if not counts[label]]
    if empty:
        first = source.classes[empty[0]] if source.classes else f"{empty[0]}"
        first += f" ({known[empty[0]]})" if known and not source.classes else ""
        more = f", nor have {len(empty) - 1} others" if len(empty) > 1 else ""
        raise UserError(f"source={path}: class {first} has no images{more}")
    if known and len(source) != IMAGENET_COUNT and not partial:
        raise UserError(
            f"source={path}: {len(source):,} images, but ImageNet's training set has "
            f"{IMAGENET_COUNT:,}; complete it, or set partial=true if that is meant"
        )


def _check_synsets(names: list[str], known: list[str], path: Path) -> None:
    lacking, unknown = sorted(set(known) - set(names)), sorted(set(names) - set(known))
    words = [f"{len(lacking)} classes are missing, first {name}" for name in lacking[:1]]
    words += [f"{len(unknown)} are none of ImageNet-1k's, first {name}" for name in unknown[:1]]
    if words:
        raise UserError(f"source={path}: {'; '.join(words)}; complete it, or set classes=")


def synsets() -> list[str] | None:
    """ImageNet-1k's class folders in order, where timm is there to know them."""
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return None
    return list(ImageNetInfo("imagenet-1k").label_names())
