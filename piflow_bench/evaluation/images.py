"""Sets of images as batches of uint8 RGB: folders, ADM-style npz, npy, arrays, torch datasets.

The rule for what is not 8-bit RGB: grey images are repeated over the channels, palettes are looked
up, alpha is dropped without blending (Pillow's ``convert("RGB")``, as torch-fidelity and clean-fid
do). More than 8 bits a channel is refused: rounding it would be a choice of ours.
"""

from __future__ import annotations

import hashlib
import io
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LOSSY = (".jpg", ".jpeg", ".webp")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
DEEP_LAYOUT = ";16B"
"""Ends Pillow's name for a file's 16-bit channels, which it would cut to 8 bits unasked."""
NPZ_KEY, LABELS_KEY = "arr_0", "arr_1"
DAMAGED = (
    OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError
)  # fmt: skip
"""What reading a damaged npy or npz file raises."""


@dataclass(frozen=True)
class Images:
    """A set of equally large images.

    ``read(start, stop)`` gives rows ``(stop - start, height, width, 3)`` uint8 in the set's order.
    """

    path: str
    count: int
    height: int
    width: int
    read: Callable[[int, int], np.ndarray]
    fingerprint: Callable[[], str]
    warnings: tuple[str, ...] = field(default_factory=tuple)
    labels: np.ndarray | None = None
    """Class of every image ``(n,)``, as strings, where the source states them."""
    source: Any = None
    """What was opened, and by how many threads files are decoded."""
    workers: int = 2

    def __len__(self) -> int:
        return self.count

    def digest(self) -> str:
        """sha256 of the images' content, in order."""
        return self.fingerprint()

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Consecutive batches of ``size`` rows, the last one smaller."""
        end = self.count if stop is None else min(stop, self.count)
        for first in range(start, end, size):
            yield self.read(first, min(first + size, end))


def open_images(source: Any, what: str = "samples", workers: int = 2) -> Images:
    """Images of a folder, an ``.npz`` or ``.npy`` file, an array, a tensor or a torch dataset.

    A folder's images are classed by its subfolders, an npz file's by ``arr_1``; a folder of the
    store (``samples.npy``, floats in [-1, 1]) is an input as well.

    Args:
        source: a path; a uint8 array or tensor, ``(n, h, w, 3)`` or ``(n, 3, h, w)``, also with one
            channel; floats in [0, 1]; or a dataset whose items are such images.
        what: the setting's name, for messages.
        workers: threads that decode files.

    Raises:
        UserError: naming the path and what is wrong with it.
    """
    return replace(_open(source, what, workers), source=source, workers=workers)


def _open(source: Any, what: str, workers: int) -> Images:
    if not isinstance(source, str | Path):
        return _in_memory(source, what)
    path = Path(source)
    if (path / "samples.npy").is_file():
        return _artifact(path, what)
    if path.is_dir():
        return _folder(path, what, workers)
    if not path.exists():
        raise UserError(f"{what}={source}: no such file or folder")
    if path.suffix == ".npz":
        return _npz(path, what)
    if path.suffix == ".npy":
        return _npy(path, what)
    if path.suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise UserError(
            f"{what}={source}: pickled files are not read; save the images as uint8 with "
            "numpy.savez(FILE, arr_0=images)"
        )
    raise UserError(f"{what}={source}: neither a folder of images nor a .npz or .npy file")


# ------------------------------------------------------------------ folders


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    """A Pillow image whose header was read; UserError for what is damaged or too deep."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            layouts = [str(tile[3]) for tile in image.tile]
            if image.mode in DEEP_MODES or any(name.endswith(DEEP_LAYOUT) for name in layouts):
                raise UserError(
                    f"{what}: {path}: more than 8 bits a channel ({image.mode}); convert it to 8 "
                    "bits by the rule your protocol names"
                )
            yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{what}: {path}: not a readable image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{what}: {path}: cannot be read whole ({error})") from error


def _decode(path: Path, what: str) -> np.ndarray:
    """One image file as ``(h, w, 3)`` uint8."""
    with _opened(path, what) as image:
        image.info.pop("transparency", None)  # Pillow warns of what is the rule here.
        return np.asarray(image.convert("RGB"))


def _size(path: Path, what: str) -> tuple[int, int]:
    """Width and height, by the header alone: all are looked at before any work."""
    with _opened(path, what) as image:
        return image.size


def _folder(folder: Path, what: str, workers: int) -> Images:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not files:
        raise UserError(f"{what}={folder}: no images in it ({', '.join(EXTENSIONS)})")
    height, width, _ = _decode(files[0], what).shape
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        sizes = list(pool.map(lambda path: _size(path, what), files))
    other = next((i for i, size in enumerate(sizes) if size != (width, height)), None)
    if other is not None:
        raise UserError(
            f"{what}={folder}: images of several sizes: {files[0].name} is {width}x{height}, "
            f"{files[other].name} is {sizes[other][0]}x{sizes[other][1]}; resize them by one "
            "rule first"
        )

    def read(start: int, stop: int) -> np.ndarray:
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            return np.stack(list(pool.map(lambda path: _decode(path, what), files[start:stop])))

    def fingerprint() -> str:
        whole = hashlib.sha256()
        for path in files:
            with path.open("rb") as handle:
                whole.update(hashlib.file_digest(handle, "sha256").digest())
        return whole.hexdigest()

    lossy = sum(p.suffix.lower() in LOSSY for p in files)
    warnings: tuple[str, ...] = ()
    if lossy:
        warnings = (
            f"{what}={folder}: {lossy} of {len(files)} files are of a lossy format, which moves "
            "Fréchet distances",
        )
    parents = [path.relative_to(folder).parts[:-1] for path in files]
    labels = np.array([parts[0] for parts in parents]) if all(parents) else None
    return Images(str(folder), len(files), height, width, read, fingerprint, warnings, labels)


# ------------------------------------------------------------------ arrays


def _layout(shape: Sequence[int], dtype: np.dtype, what: str) -> tuple[bool, int, int]:
    """Whether channels come first, height and width, of a stack of images."""
    if dtype.hasobject:
        raise UserError(f"{what}: an array of Python objects is a pickle, which is not read")
    if dtype != np.uint8:
        raise UserError(
            f"{what}: images must be uint8 (0..255), not {dtype}; convert them first, floats in "
            "[0, 1] by numpy.uint8(255 * x + 0.5)"
        )
    if len(shape) == 3:
        return False, shape[1], shape[2]
    if len(shape) == 4 and shape[3] in (1, 3):
        return False, shape[1], shape[2]
    if len(shape) == 4 and shape[1] in (1, 3):
        return True, shape[2], shape[3]
    raise UserError(
        f"{what}: shape {tuple(shape)} is no stack of images; (n, height, width, 3) is meant"
    )


def _rgb(rows: np.ndarray, channels_first: bool) -> np.ndarray:
    if rows.ndim == 3:
        rows = rows[..., None]
    if channels_first:
        rows = rows.transpose(0, 2, 3, 1)
    if rows.shape[3] == 1:
        rows = rows.repeat(3, axis=3)
    return np.ascontiguousarray(rows)


def _array(array: np.ndarray, path: str, what: str, fingerprint: Callable[[], str]) -> Images:
    first, height, width = _layout(array.shape, array.dtype, what)
    if not len(array):
        raise UserError(f"{what}: no images in it")

    def read(start: int, stop: int) -> np.ndarray:
        return _rgb(np.asarray(array[start:stop]), first)

    return Images(path, len(array), height, width, read, fingerprint)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def reason(error: Exception) -> str:
    """Why a file of arrays is not read, in one line."""
    line = _line(error)
    if "pickle" in line or "Python objects" in line:
        return "holds Python objects, which are pickles and not read; save plain numbers"
    return f"cannot be read whole ({line})"


def _file_digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _npy(path: Path, what: str) -> Images:
    named = f"{what}={path}"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"{named}: {reason(error)}") from error
    return _array(array, str(path), named, lambda: _file_digest(path))


def _artifact(folder: Path, what: str) -> Images:
    """Samples of the store: floats ``(n, c, h, w)`` in [-1, 1]."""
    path, named = folder / "samples.npy", f"{what}={folder}"
    try:
        x = np.load(path, allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"{named}: samples.npy {reason(error)}") from error
    if x.ndim != 4 or x.dtype.kind != "f" or x.shape[1] not in (1, 3):
        raise UserError(f"{named}: samples of shape {x.shape} are no images")
    array = to_uint8((x.clip(-1, 1) + 1) / 2, named)
    return _array(array, str(folder), named, lambda: _file_digest(path))


@dataclass(frozen=True)
class Member:
    """An array inside a zip file, read in rows without loading the whole."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    """Bytes of the npy header."""


def npz_members(path: Path, what: str) -> dict[str, Member]:
    """The arrays of an npz file, by key; nothing but their headers is read."""
    members = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if not entry.endswith(".npy"):
                    continue
                with archive.open(entry) as handle:
                    version = np.lib.format.read_magic(handle)
                    reader = {
                        (1, 0): np.lib.format.read_array_header_1_0,
                        (2, 0): np.lib.format.read_array_header_2_0,
                    }.get(version)
                    if reader is None:
                        raise UserError(f"{what}: {entry} has npy version {version}")
                    shape, fortran, dtype = reader(handle)
                    key = entry.removesuffix(".npy")
                    if fortran and len(shape) > 1 and key == NPZ_KEY:  # It is read by rows.
                        raise UserError(f"{what}: {entry} is in Fortran order; save it in C order")
                    members[key] = Member(path, entry, shape, dtype, handle.tell())
    except DAMAGED as error:
        raise UserError(f"{what}: not a whole npz file ({_line(error)})") from error
    return members


class _Stream:
    """Rows of a member in order; going back opens it anew."""

    def __init__(self, member: Member) -> None:
        self.member, self.row = member, 0
        self.handle: io.BufferedIOBase | None = None
        self.bytes = int(np.prod(member.shape[1:])) * member.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        if self.handle is None or start < self.row:
            archive = zipfile.ZipFile(self.member.path)  # noqa: SIM115 (open between reads)
            self.handle = archive.open(self.member.name)  # type: ignore[assignment]
            assert self.handle is not None
            self.handle.seek(self.member.offset)
            self.row = 0
        self.handle.seek((start - self.row) * self.bytes, io.SEEK_CUR)
        wanted = (stop - start) * self.bytes
        parts, got = [], 0
        while got < wanted:
            part = self.handle.read(wanted - got)
            if not part:
                raise EOFError("ends early")
            parts.append(part)
            got += len(part)
        self.row = stop
        rows = np.frombuffer(b"".join(parts), self.member.dtype)
        return rows.reshape(stop - start, *self.member.shape[1:])


def _npz(path: Path, what: str) -> Images:
    named = f"{what}={path}"
    members = npz_members(path, named)
    if NPZ_KEY not in members:
        raise UserError(
            f"{named}: no array '{NPZ_KEY}' in it, only {', '.join(sorted(members)) or 'nothing'}"
        )
    member = members[NPZ_KEY]
    first, height, width = _layout(member.shape, member.dtype, named)
    if not member.shape[0]:
        raise UserError(f"{named}: no images in it")
    stream = _Stream(member)

    def read(start: int, stop: int) -> np.ndarray:
        try:
            return _rgb(stream.read(start, stop), first)
        except DAMAGED as error:
            raise UserError(f"{named}: {NPZ_KEY} is damaged ({_line(error)})") from error

    return Images(
        str(path),
        member.shape[0],
        height,
        width,
        read,
        lambda: _file_digest(path),
        labels=_classes(path, members, member.shape[0], named),
    )


def _classes(path: Path, members: dict[str, Member], count: int, what: str) -> np.ndarray | None:
    found = members.get(LABELS_KEY)
    if found is None or found.shape != (count,) or found.dtype.kind not in "iuU":
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[LABELS_KEY].astype(str)
    except DAMAGED as error:
        raise UserError(f"{what}: {LABELS_KEY} is damaged ({_line(error)})") from error


# ------------------------------------------------------------------ memory


def to_uint8(images: np.ndarray, what: str = "samples") -> np.ndarray:
    """uint8 of floats in [0, 1], by the rule ``floor(255 x + 1/2)``.

    Raises:
        UserError: for values out of range or not finite.
    """
    if not np.isfinite(images).all():
        raise UserError(f"{what}: values that are not finite")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise UserError(
            f"{what}: floats must lie in [0, 1], not [{low:.3g}, {high:.3g}]; images in [-1, 1] "
            "are (x + 1) / 2"
        )
    return (images * 255 + 0.5).astype(np.uint8)


def _in_memory(source: Any, what: str) -> Images:
    if hasattr(source, "detach"):
        source = source.detach().cpu().numpy()
    if not isinstance(source, np.ndarray):
        return _dataset(source, what)
    if source.dtype.kind == "f":
        source = to_uint8(source, what)
    array = np.ascontiguousarray(source)
    return _array(array, "memory", what, lambda: hashlib.sha256(array.tobytes()).hexdigest())


def _dataset(source: Any, what: str) -> Images:
    """Items of a dataset, one by one: it may be larger than the memory."""
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise UserError(f"{what}: {type(source).__name__} is no path, array, tensor or dataset")
    if not len(source):
        raise UserError(f"{what}: no images in it")

    def item(index: int) -> np.ndarray:
        found = source[index]
        found = found[0] if isinstance(found, tuple | list) else found
        image = found.numpy() if hasattr(found, "numpy") else np.asarray(found)
        image = to_uint8(image, what) if image.dtype.kind == "f" else image
        # One image is a stack of one; a third axis of an image without a fourth is its channels.
        first, _, _ = _layout((1, *image.shape), image.dtype, what)
        return _rgb(image[None], first)[0]

    height, width, _ = item(0).shape

    def read(start: int, stop: int) -> np.ndarray:
        rows = [item(index) for index in range(start, stop)]
        for row in rows:
            if row.shape != (height, width, 3):
                raise UserError(
                    f"{what}: images of several sizes: {width}x{height} and "
                    f"{row.shape[1]}x{row.shape[0]}"
                )
        return np.stack(rows)

    def fingerprint() -> str:
        whole = hashlib.sha256()
        for index in range(len(source)):
            whole.update(item(index).tobytes())
        return whole.hexdigest()

    return Images("memory", len(source), height, width, read, fingerprint)


# ------------------------------------------------------------------ writing


def write_npz(path: Path, batches: Iterator[np.ndarray], count: int) -> None:
    """An ADM-style npz (``arr_0`` uint8 NHWC, stored uncompressed), written batch by batch.

    Args:
        path: the file; it appears when it is whole.
        batches: arrays ``(b, h, w, 3)`` uint8, ``count`` rows in all.
        count: number of images, which the header states first.
    """
    temporary = path.with_name(path.name + ".tmp")
    written = 0
    with (
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        archive.open(f"{NPZ_KEY}.npy", "w", force_zip64=True) as handle,
    ):
        for rows in batches:
            if rows.dtype != np.uint8 or rows.ndim != 4:
                raise ValueError(f"batches must be uint8 (b, h, w, c), not {rows.dtype}")
            if not written:
                header = {
                    "descr": np.lib.format.dtype_to_descr(rows.dtype),
                    "fortran_order": False,
                    "shape": (count, *rows.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(handle, header)  # type: ignore[arg-type]
            handle.write(np.ascontiguousarray(rows).tobytes())
            written += len(rows)
    if written != count:
        temporary.unlink()
        raise ValueError(f"{written} images were written, {count} announced")
    temporary.replace(path)
