"""Images in npz files as ADM writes them, streamed, and what npz files hold."""

from __future__ import annotations

import io
import math
import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.axes import as_rgb, axes_of
from piflow_bench.evaluation.pictures.images import Images, printable
from piflow_bench.evaluation.pictures.labels import as_classes
from piflow_bench.files.atomic import write_atomically
from piflow_bench.files.digests import file_digest

NPZ_KEY, LABELS_KEY = "arr_0", "arr_1"
FAR = 64 << 20
"""Bytes that are not read in order to get beyond them, where a file can be entered anywhere."""
DAMAGED = (
    OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError
)  # fmt: skip
"""What reading a damaged npy or npz file raises."""


MOMENTS = ("mu", "sigma", "mu_s", "sigma_s", "ref_mu", "ref_sigma", "n", "extractor", "precision",
           "image_size", "warnings")  # fmt: skip
"""Keys of statistics, which lie beside the images in ADM's files."""


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def reason(error: Exception) -> str:
    """Why a file of arrays is not read, in one line."""
    line = _line(error)
    if "pickle" in line or "Python objects" in line:
        return "holds Python objects, which are pickles and not read; save plain numbers"
    return f"cannot be read whole ({line})"


def check_bytes(count: int, shape: Sequence[int], dtype: np.dtype, what: str) -> None:
    """UserError unless ``count`` bytes are those of an array of this shape."""
    announced = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or (count != announced and not dtype.hasobject):
        raise UserError(
            f"{what}: cannot be read whole ({count} bytes, but its shape {tuple(shape)} is of "
            f"{announced})"
        )


@dataclass(frozen=True)
class Member:
    """An array inside a zip file, read in rows without loading the whole."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    """Bytes of the npy header."""
    bytes: int
    """Bytes after it."""


def npz_members(path: Path, what: str) -> dict[str, Member]:
    """The arrays of an npz file, by key; nothing but their headers is read."""
    members = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
            for entry in entries:
                if not entry.endswith(".npy"):
                    continue
                if entries.count(entry) > 1:
                    raise UserError(f"{what}: {entry} is there twice")
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
                    offset = handle.tell()
                    size = archive.getinfo(entry).file_size - offset
                    members[key] = Member(path, entry, shape, dtype, offset, size)
    except DAMAGED as error:
        raise UserError(f"{what}: not a whole npz file ({_line(error)})") from error
    return members


class _Stream:
    """Rows of a member: in order as the file is read once, in any order from a copy beside it."""

    def __init__(self, member: Member) -> None:
        self.member, self.row = member, 0
        self.handle: IO[bytes] | None = None
        self.ended = False
        self.copy: np.memmap | None = None
        self.bytes = int(np.prod(member.shape[1:])) * member.dtype.itemsize

    def read(self, places: np.ndarray) -> np.ndarray:
        """Rows at these places; those that follow each other are read at once."""
        runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
        return np.concatenate([self._run(int(run[0]), int(run[-1]) + 1) for run in runs])

    def _run(self, start: int, stop: int) -> np.ndarray:
        if self.copy is None and start < self.row:
            # What was read to its end was whole; otherwise the copy sees to that.
            mapped = self._mapped() if self.ended else None
            self.copy = self._copied() if mapped is None else mapped
        if self.copy is None and (start - self.row) * self.bytes > FAR:
            self.copy = self._mapped()
        if self.copy is not None:
            return np.array(self.copy[start:stop])
        if self.handle is None:
            self.handle = self._opened()
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
        if stop == self.member.shape[0]:
            self.ended = True
            self._close()
        rows = np.frombuffer(b"".join(parts), self.member.dtype)
        return rows.reshape(stop - start, *self.member.shape[1:])

    def _opened(self) -> IO[bytes]:
        # Both end with the handle: an archive is closed when nothing in it is open.
        with zipfile.ZipFile(self.member.path) as archive:
            handle = archive.open(self.member.name)
        handle.seek(self.member.offset)
        return handle

    def _close(self) -> None:
        if self.handle is not None:
            self.handle.close()
            self.handle = None

    def _mapped(self) -> np.memmap | None:
        """All rows where they lie in the file; None where they are compressed."""
        with zipfile.ZipFile(self.member.path) as archive:
            info = archive.getinfo(self.member.name)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with self.member.path.open("rb") as file:
            file.seek(info.header_offset)
            # Of its own header: 26 bytes, then how long the name and what follows it are.
            name, more = struct.unpack("<26x2H", file.read(30))
        offset = info.header_offset + 30 + name + more + self.member.offset
        self._close()
        return np.memmap(self.member.path, self.member.dtype, "r", offset, self.member.shape)

    def _copied(self) -> np.memmap:
        """All rows in a file without a name: what a zip file holds cannot be gone back in."""
        self._close()
        with tempfile.TemporaryFile() as file, self._opened() as handle:
            shutil.copyfileobj(handle, file, 1 << 22)
            file.flush()
            return np.memmap(file, self.member.dtype, "r", shape=self.member.shape)


def mapped(member: Member) -> np.ndarray:
    """All rows of a member, mapped: where they lie in the file, or from a copy without a name."""
    stream = _Stream(member)
    found = stream._mapped()
    return stream._copied() if found is None else found


def open_npz(path: Path, what: str) -> Images:
    """The images of an npz file, classed by its second array."""
    named = f"{what}={path}"
    members = npz_members(path, named)
    if NPZ_KEY not in members:
        held = f"only {', '.join(sorted(members))}" if members else "nor another one"
        raise UserError(
            f"{named}: no array '{NPZ_KEY}' in it, {held}; "
            f"images are written by numpy.savez(FILE, {NPZ_KEY}=images)"
        )
    member = members[NPZ_KEY]
    axes = axes_of(member.shape, member.dtype, named)
    check_bytes(member.bytes, member.shape, member.dtype, f"{named}: {NPZ_KEY}")
    if not member.shape[0]:
        raise UserError(f"{named}: no images in it")
    height, width = (member.shape[axes.index(side)] for side in "hw")
    stream = _Stream(member)

    def rows(places: np.ndarray) -> np.ndarray:
        try:
            return as_rgb(stream.read(places), axes)
        except DAMAGED as error:
            raise UserError(f"{named}: {NPZ_KEY} is damaged ({_line(error)})") from error

    labels = _classes(path, members, member.shape[0], named)
    warnings = []
    if LABELS_KEY in members and labels is None:
        other = members[LABELS_KEY]
        warnings = [f"{named}: {LABELS_KEY}, {other.dtype} {other.shape}, is not read as classes"]
    others = [members[key] for key in sorted(members.keys() - {NPZ_KEY, LABELS_KEY, *MOMENTS})]
    for other in others:
        shown = f"{printable(other.name.removesuffix('.npy'))}, {other.dtype} {other.shape}"
        warnings.append(f"{named}: {shown}, is left out; images are those of {NPZ_KEY}")
    return Images(
        str(path), member.shape[0], height, width, rows, cache(lambda: file_digest(path)),
        tuple(warnings), labels,
    )  # fmt: skip


def _classes(path: Path, members: dict[str, Member], count: int, what: str) -> np.ndarray | None:
    found = members.get(LABELS_KEY)
    if found is None or found.dtype.kind not in "biufU" or len(found.shape) not in (1, 2):
        return None
    if found.shape[0] != count:
        if len(found.shape) == 2 and found.shape[1] > 1:
            return None
        raise UserError(
            f"{what}: {LABELS_KEY} has {found.shape[0]} labels for {count} images; one an image is "
            "needed"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return as_classes(arrays[LABELS_KEY])
    except DAMAGED as error:
        raise UserError(f"{what}: {LABELS_KEY} is damaged ({_line(error)})") from error


def write_npz(path: Path, batches: Iterator[np.ndarray], count: int) -> None:
    """An ADM-style npz (``arr_0`` uint8 NHWC, stored uncompressed), written batch by batch.

    Args:
        path: the file; it appears when it is whole.
        batches: arrays ``(b, h, w, 3)`` uint8, ``count`` rows in all.
        count: number of images, which the header states first.
    """

    def write(temporary: Path) -> None:
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
            raise ValueError(f"{written} images were written, {count} announced")

    write_atomically(path, write)
