"""Where training images come from: class folders, tar files, or Hugging Face parquet shards.

All are read at random without unpacking, in one order: by class, and within a class by name.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_bench.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class ImageSource:
    """Encoded images with their classes; ``read(i)`` gives the bytes of the i-th."""

    names: list[str]
    """Of the images, for messages."""
    labels: list[int]
    classes: list[str]
    """Names of the classes, in the order of their labels."""
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)

    def digest(self) -> str:
        """sha256 of the images' names and classes: what a half-finished folder belongs to."""
        whole = hashlib.sha256()
        for name, label in zip(self.names, self.labels, strict=True):
            whole.update(f"{name}\0{label}\n".encode())
        return whole.hexdigest()


def open_source(path: Path, classes: int) -> ImageSource:
    """The images of a folder of class folders, a tar of them, a tar of tars, or parquet files.

    Raises:
        UserError: if it is none of these, or its classes are not the expected ones.
    """
    if not path.exists():
        raise UserError(f"source={path}: no such file or folder")
    if path.is_dir() and any(path.glob("*.parquet")):
        source = _parquet(sorted(path.glob("*.parquet")), classes)
    elif path.is_dir():
        source = _folder(path / "train" if (path / "train").is_dir() else path)
    elif path.suffix == ".parquet":
        source = _parquet([path], classes)
    elif tarfile.is_tarfile(path):
        source = _tar(path)
    else:
        raise UserError(
            f"source={path}: needs a folder of class folders, a tar file, or parquet files"
        )
    _check(source, classes, path)
    return source


def _check(source: ImageSource, classes: int, path: Path) -> None:
    if not len(source):
        raise UserError(f"source={path}: no images in it")
    counts = Counter(source.labels)
    empty = [name for i, name in enumerate(source.classes) if not counts[i]]
    if empty:
        raise UserError(f"source={path}: class {empty[0]} has no images")
    known = _synsets() if classes == 1000 else None
    if known and all(name[1:].isdigit() and name[:1] == "n" for name in source.classes):
        lacking = sorted(set(known) - set(source.classes))
        unknown = sorted(set(source.classes) - set(known))
        if lacking or unknown:
            words = [f"{len(lacking)} classes are missing, first {x}" for x in lacking[:1]]
            words += [f"{unknown[0]} is none of ImageNet-1k's"] if unknown else []
            raise UserError(f"source={path}: {'; '.join(words)}")
    if len(source.classes) != classes:
        raise UserError(
            f"source={path}: {len(source.classes)} classes, {classes} expected; complete it, or "
            f"set classes={len(source.classes)}"
        )


def _synsets() -> list[str] | None:
    """ImageNet-1k's class folders in order, where timm is there to know them."""
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return None
    return list(ImageNetInfo("imagenet-1k").label_names())


def _ordered(
    found: list[tuple[str, str, Any]],
) -> tuple[list[str], list[int], list[str], list[Any]]:
    """(class, name, key) rows as names, labels, classes and keys, by class and name."""
    found = sorted(found, key=lambda row: (row[0], row[1]))
    classes = sorted({row[0] for row in found})
    place = {name: i for i, name in enumerate(classes)}
    return (
        [f"{c}/{n}" for c, n, _ in found],
        [place[c] for c, _, _ in found],
        classes,
        [key for *_, key in found],
    )


def _folder(root: Path) -> ImageSource:
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    found = [
        (folder.name, file.name, file)
        for folder in folders
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES
    ]
    names, labels, _, files = _ordered(found)
    classes = [folder.name for folder in folders]
    place = {name: i for i, name in enumerate(classes)}
    labels = [place[file.parent.name] for file in files]
    return ImageSource(names, labels, classes, lambda i: files[i].read_bytes())


def _tar(path: Path) -> ImageSource:
    """Offsets of the images in a tar, or in the tars inside it: they are stored uncompressed."""
    found: list[tuple[str, str, tuple[int, int]]] = []
    with tarfile.open(path, "r:") as outer:
        for member in outer:
            place = Path(member.name)
            if not member.isfile():
                continue
            if place.suffix == ".tar":
                inner = outer.extractfile(member)
                assert inner is not None
                with tarfile.open(fileobj=inner, mode="r:") as tar:
                    for image in tar:
                        if image.isfile() and Path(image.name).suffix.lower() in SUFFIXES:
                            start = member.offset_data + image.offset_data
                            key = (start, image.size)
                            found.append((place.stem, Path(image.name).name, key))
            elif place.suffix.lower() in SUFFIXES and place.parent.name:
                key = (member.offset_data, member.size)
                found.append((place.parent.name, place.name, key))
    names, labels, classes, keys = _ordered(found)

    def read(i: int) -> bytes:
        start, size = keys[i]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    return ImageSource(names, labels, classes, read)


def _parquet(files: list[Path], classes: int) -> ImageSource:
    """Shards with columns ``image`` {bytes, path} and ``label``; row groups are read as needed."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    found: list[tuple[int, str, tuple[int, int, int]]] = []
    for f, file in enumerate(files):
        try:
            table = pq.ParquetFile(file)
            for group in range(table.num_row_groups):
                rows = table.read_row_group(group, columns=["label", "image.path"]).to_pylist()
                for r, row in enumerate(rows):
                    name = (row["image"] or {}).get("path") or f"{f:05d}-{group:05d}-{r:05d}"
                    found.append((int(row["label"]), str(name), (f, group, r)))
        except (ArrowException, KeyError, OSError, TypeError) as error:
            raise UserError(
                f"source={file}: needs columns image (bytes, path) and label "
                f"({str(error).splitlines()[0]})"
            ) from error
    found.sort()
    count = max((label for label, *_ in found), default=-1) + 1
    held: dict[tuple[int, int], list[Any]] = {}

    def read(i: int) -> bytes:
        f, group, r = found[i][2]
        if (f, group) not in held:
            if len(held) > 8:
                held.pop(next(iter(held)))
            column = pq.ParquetFile(files[f]).read_row_group(group, columns=["image.bytes"])
            held[f, group] = column.column("image").combine_chunks()
        return held[f, group][r].as_py()["bytes"]

    names = [f"{label}/{name}" for label, name, _ in found]
    labels = [label for label, *_ in found]
    return ImageSource(names, labels, [str(c) for c in range(max(count, 0))], read)


def decode(data: bytes) -> Any:
    """An RGB Pillow image; OSError, ValueError or SyntaxError where the data are damaged."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def centre_crop(image: Any, size: int) -> Any:
    """ADM's crop (also DiT's): halved by boxes while twice too large, bicubic, then the centre."""
    from PIL import Image

    while min(image.size) >= 2 * size:
        halved = tuple(side // 2 for side in image.size)
        image = image.resize(halved, resample=Image.Resampling.BOX)
    factor = size / min(image.size)
    scaled = tuple(round(side * factor) for side in image.size)
    image = image.resize(scaled, resample=Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))
