"""Where training images come from: class folders, tar files, or Hugging Face parquet shards.

All are read at random without unpacking, in one order: by class, and within a class by name.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from piflow_bench.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
IMAGENET_CLASSES, IMAGENET_COUNT = 1000, 1_281_167
"""Of the whole training set of ImageNet-1k."""
HELD_GROUPS = 8
"""Row groups of parquet files that are kept in memory."""


class ReadError(Exception):
    """The source itself cannot be read, which says nothing about the image in it."""


@dataclass(frozen=True)
class ImageSource:
    """Encoded images with their classes; ``read(i)`` gives the bytes of the i-th.

    It can be pickled, so that other processes need not look for the images again. ``read`` may be
    called from several threads and raises ``ReadError`` where the source fails.
    """

    names: list[str]
    """Of the images, for messages: class/name."""
    labels: list[int]
    classes: list[str] | None
    """Names of the classes, in the order of their labels; None where the source has none."""
    read: Callable[[int], bytes]
    description: str = ""
    """What it is and where it lies, in words."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.names)

    def digest(self) -> str:
        """sha256 of the images' names and classes: what a half-finished folder belongs to."""
        whole = hashlib.sha256()
        for name, label in zip(self.names, self.labels, strict=True):
            whole.update(f"{name}\0{label}\n".encode())
        return whole.hexdigest()


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
    shards = _parquet_files(path)
    if shards:
        source = _parquet(shards, path, classes)
    elif path.is_dir():
        source = _folder(path / "train" if (path / "train").is_dir() else path)
    elif path.suffix != ".parquet" and _is_tar(path):
        source = _tar(path)
    else:
        raise UserError(
            f"source={path}: needs a folder of class folders, a tar file, or parquet files"
        )
    _check(source, classes, path, partial)
    return source


# ------------------------------------------------------------------ checks


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


# ------------------------------------------------------------------ folders and tars


def _is_image(name: str) -> bool:
    """Whether a file's name is an image's; hidden files are other programs' leavings."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _ordered(
    found: Iterable[tuple[str, str, Any]], folders: set[str]
) -> tuple[list[str], list[int], list[str], list[Any]]:
    """(class, name, key) rows as names, labels, classes and keys, by class and name."""
    rows = sorted(found, key=lambda row: (row[0], row[1]))
    classes = sorted(folders | {row[0] for row in rows})
    place = {name: i for i, name in enumerate(classes)}
    return (
        [f"{c}/{n}" for c, n, _ in rows],
        [place[c] for c, _, _ in rows],
        classes,
        [key for *_, key in rows],
    )


@dataclass(frozen=True)
class _Files:
    root: Path
    names: list[str]

    def __call__(self, i: int) -> bytes:
        try:
            return (self.root / self.names[i]).read_bytes()
        except OSError as error:
            raise ReadError(f"{self.root / self.names[i]}: {error.strerror}") from error


def _folder(root: Path) -> ImageSource:
    folders = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    found = (
        (folder.name, file.name, None)
        for folder in folders
        for file in folder.iterdir()
        if _is_image(file.name)
    )
    names, labels, classes, _ = _ordered(found, {p.name for p in folders})
    return ImageSource(names, labels, classes, _Files(root, names), f"class folders, {root}")


@dataclass(frozen=True)
class _Spans:
    """Parts of one file, by offset and size ``(n, 2)``."""

    path: Path
    spans: np.ndarray

    def __call__(self, i: int) -> bytes:
        start, size = (int(number) for number in self.spans[i])
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise ReadError(f"{self.path}: {error.strerror}") from error
        if len(data) < size:
            raise ReadError(f"{self.path}: ends early; copy it anew")
        return data


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except OSError as error:
        raise UserError(f"source={path}: cannot be read ({error.strerror})") from error


def _tar(path: Path) -> ImageSource:
    """Offsets of the images in a tar, or in the tars inside it: they are stored uncompressed."""
    found: list[tuple[tuple[str, ...], str, tuple[int, int]]] = []
    folders: set[tuple[str, ...]] = set()
    inside = ""
    try:
        with tarfile.open(path, "r:") as outer:
            for member in outer:
                place = PurePosixPath(member.name)
                if member.isdir():
                    folders.add(place.parts)
                elif member.isreg() and place.suffix == ".tar" and place.name[0] != ".":
                    inside = member.name
                    whole = place.with_suffix("").parts
                    folders.add(whole)
                    inner = outer.extractfile(member)
                    assert inner is not None
                    with tarfile.open(fileobj=inner, mode="r:") as tar:
                        for image in tar:
                            name = PurePosixPath(image.name).name
                            if image.isreg() and _is_image(name):
                                start = member.offset_data + image.offset_data
                                found.append((whole, name, (start, image.size)))
                    inside = ""
                elif member.isreg() and _is_image(place.name):
                    span = (member.offset_data, member.size)
                    found.append((place.parent.parts, place.name, span))
    except (tarfile.TarError, EOFError) as error:
        where = f" ({inside} in it)" if inside else ""
        raise UserError(
            f"source={path}{where}: compressed or damaged ({error}); a tar is read as it is, "
            "uncompressed: gunzip it, or copy it anew"
        ) from error
    if any("train" in parts for parts, *_ in found):
        found = [row for row in found if "train" in row[0]]
    found = [row for row in found if row[0]]
    # A class folder without images lies where those with images lie.
    parents = {parts[:-1] for parts, *_ in found}
    beside = {parts[-1] for parts in folders if parts and parts[:-1] in parents}
    rows = [(parts[-1], name, span) for parts, name, span in found]
    names, labels, classes, spans = _ordered(rows, beside)
    return ImageSource(
        names, labels, classes, _Spans(path, np.array(spans, np.int64)), f"tar, {path}"
    )


# ------------------------------------------------------------------ parquet


def _parquet_files(path: Path) -> list[Path]:
    if path.suffix == ".parquet" and path.is_file():
        return [path]
    if not path.is_dir():
        return []
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    # A repository of the hub has its splits side by side.
    return [file for file in files if file.name.startswith("train")] or files


class Groups:
    """Images in row groups of parquet files, each read whole and kept for a while.

    ``places`` ``(n, 3)`` says of every image in which file, row group and row it lies.
    """

    def __init__(self, files: list[Path], places: np.ndarray, column: str = "image") -> None:
        self.files, self.places, self.column = files, places, column
        self._held: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Groups, (self.files, self.places, self.column)  # A lock cannot be pickled.

    def group(self, f: int, group: int) -> list[bytes]:
        """All images of a row group, in the file's order."""
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        try:
            file = pq.ParquetFile(self.files[f])
            table = file.read_row_group(group, columns=[f"{self.column}.bytes"])
        except (ArrowException, OSError) as error:
            raise ReadError(f"{self.files[f]}: {str(error).splitlines()[0]}") from error
        # What is null is damaged, as an empty file is.
        return [(row or {}).get("bytes") or b"" for row in table.column(self.column).to_pylist()]

    def __call__(self, i: int) -> bytes:
        """The i-th image's file."""
        f, group, row = (int(number) for number in self.places[i])
        with self._lock:
            if (f, group) not in self._held:
                while len(self._held) >= HELD_GROUPS:
                    self._held.popitem(last=False)
                self._held[f, group] = self.group(f, group)
            self._held.move_to_end((f, group))
            return self._held[f, group][row]


def _parquet(files: list[Path], path: Path, classes: int) -> ImageSource:
    """Shards with columns ``image`` {bytes, path} and ``label``."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    found: list[tuple[int, str, tuple[int, int, int]]] = []
    for f, file in enumerate(files):
        try:
            table = pq.ParquetFile(file)
            columns = {table.schema.column(c).path for c in range(len(table.schema))}
            if not {"image.bytes", "label"} <= columns:
                raise KeyError(f"it has {', '.join(sorted(columns))}")
            for group in range(table.num_row_groups):
                rows = table.read_row_group(group, columns=["label", "image.path"]).to_pylist()
                for r, row in enumerate(rows):
                    name = (row.get("image") or {}).get("path") or f"{f:05d}-{group:05d}-{r:05d}"
                    found.append((int(row["label"]), str(name), (f, group, r)))
        except (ArrowException, KeyError, OSError, TypeError, ValueError) as error:
            raise UserError(
                f"source={file}: needs columns image (bytes, path) and label "
                f"({str(error).splitlines()[0]})"
            ) from error
    found.sort()
    return ImageSource(
        [f"{label}/{name}" for label, name, _ in found],
        [label for label, *_ in found],
        None,
        Groups(files, np.array([place for *_, place in found], np.int64).reshape(-1, 3)),
        f"parquet, {path}",
    )


def is_scattered(source: ImageSource) -> bool:
    """Whether its order is not its files': row groups would be read again and again.

    The hub's ImageNet is shuffled, and a row group of it has a hundred images: reading it by class
    would read every byte about a hundred times.
    """
    if not isinstance(source.read, Groups):
        return False
    groups = source.read.places[:, :2]
    turns = 1 + int((np.diff(groups, axis=0) != 0).any(axis=1).sum())
    return turns > 2 * len(np.unique(groups, axis=0))


def spooled_bytes(source: ImageSource) -> int:
    """About how many bytes ``spooled`` writes."""
    assert isinstance(source.read, Groups)
    return sum(file.stat().st_size for file in source.read.files)


def spooled(
    source: ImageSource, path: Path, report: Callable[[int], None] = lambda done: None
) -> ImageSource:
    """The same images, copied in the files' order to ``path``, where each has a place of its own.

    The copy takes about the room of the parquet files. It is made again from its start where it was
    interrupted; ``report`` is called with images copied.

    Raises:
        ReadError: if a file cannot be read.
    """
    read = source.read
    assert isinstance(read, Groups)
    index = path.with_suffix(".npy")
    if index.is_file() and path.is_file():
        spans = np.load(index, allow_pickle=False)
    else:
        spans, done = np.zeros((len(source), 2), np.int64), 0
        rows = np.lexsort(read.places.T[::-1])
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            held: tuple[tuple[int, int], list[bytes]] = ((-1, -1), [])
            for i in rows:
                f, group, row = (int(number) for number in read.places[i])
                if held[0] != (f, group):
                    held = (f, group), read.group(f, group)
                    report(done)
                spans[i] = file.tell(), len(held[1][row])
                file.write(held[1][row])
                done += 1
        temporary.replace(path)
        with temporary.open("wb") as file:
            np.save(file, spans)
        temporary.replace(index)
    return ImageSource(
        source.names, source.labels, source.classes, _Spans(path, spans), source.description
    )


# ------------------------------------------------------------------ pixels


def decode(data: bytes) -> Any:
    """An RGB Pillow image; OSError, ValueError or SyntaxError where the data are damaged."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (Image.DecompressionBombError, EOFError, IndexError, struct.error) as error:
        raise ValueError(str(error)) from error


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
