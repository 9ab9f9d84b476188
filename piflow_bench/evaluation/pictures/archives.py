"""Images in zip and tar files, read where they lie: nothing is unpacked under a name of its own.

Names inside an archive are never paths here, so that none can lead out of anywhere. A compressed
tar can only be read from its beginning: its images, still encoded, are kept in memory, or in a file
without a name where they are many.
"""

from __future__ import annotations

import hashlib
import lzma
import posixpath
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.files import (
    Found,
    images_of,
    is_image,
    is_nameless,
    natural,
    outermost_empty,
    refuse_empty,
    refuse_nameless,
)
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.pillow import decode, header

Seen = TypeVar("Seen")
"""What a look at an image's bytes gives."""

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ENDINGS = (".zip", *TARS)
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
"""How compressed tars begin."""
IN_MEMORY = 256 << 20
"""Bytes of a compressed tar's images beyond which they lie in a file."""
LARGEST = 1 << 30
"""Bytes of one image: more is not what a picture takes."""
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError,
    NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip
"""What reading a damaged, encrypted or unknown archive raises."""


@dataclass(frozen=True)
class _Entry:
    """A member that is no folder."""

    name: str
    size: int
    read: Callable[[int], bytes]
    """So many bytes of it from its beginning, -1: all; of a compressed tar only in passing."""
    keep: Callable[[bytes], Callable[[], bytes]] | None = None
    """How its content is kept for later, where ``read`` cannot be called again."""
    link: str | None = None
    """The member that it leads to, which was passed by or comes later."""


def is_archive(path: Path) -> bool:
    """Whether a file is an archive that is read, by its name."""
    return path.name.lower().endswith(ENDINGS)


@dataclass(frozen=True)
class Packed(Generic[Seen]):
    """An image of an archive."""

    where: str
    """The setting and its place, for messages."""
    seen: Seen
    digest: bytes
    """sha256 of its file."""
    read: Callable[[], bytes]

    def decode(self) -> np.ndarray:
        """Its pixels ``(h, w, 3)`` uint8."""
        try:
            return decode(BytesIO(self.read()), self.where)
        except BROKEN as error:
            raise UserError(f"{self.where}: {_why(error)}") from error


def open_archive(path: Path, what: str, workers: int) -> Images:
    """The images of a zip or tar file, classed by its folders; raises as ``list_archive`` does."""
    found, packed = list_archive(path, what, lambda data, where: header(BytesIO(data), where))

    def fingerprint() -> str:
        return hashlib.sha256(b"".join(image.digest for image in packed)).hexdigest()

    headers = [image.seen for image in packed]
    return images_of(
        found, f"{what}={path}", headers, lambda i: packed[i].decode(), fingerprint, workers
    )


def list_archive(
    path: Path, what: str, look: Callable[[bytes, str], Seen]
) -> tuple[Found, list[Packed[Seen]]]:
    """What a zip or tar file holds, and its images in the order of their names.

    Args:
        path: the file.
        what: the setting's name, for messages.
        look: called with every image's bytes, and with its place for messages.

    Raises:
        UserError: for what is damaged, encrypted or without images, for names that are there twice
            and for links that lead to no image of the archive.
    """
    where = f"{what}={path}"
    folders: set[str] = set()
    entries = _of_zip if path.suffix.lower() == ".zip" else _of_tar
    found: dict[str, Packed[Seen]] = {}
    links: dict[str, str] = {}
    others: list[str] = []
    seen: set[str] = set()
    try:
        for entry in entries(path, where, folders):
            inside = f"{what}: {path}/{entry.name}"
            if entry.name in seen:
                raise UserError(f"{inside}: is there twice; pack the images anew")
            seen.add(entry.name)
            if entry.link is not None:
                links[entry.name] = entry.link
            elif is_image(entry.name):
                found[entry.name] = _looked_at(entry, inside, look)
            else:
                if is_nameless(entry.name):
                    refuse_nameless(entry.read(16), inside)
                others.append(entry.name)
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{where}: {_why(error)}") from error
    for name, target in links.items():
        if target not in found:
            raise UserError(
                f"{what}: {path}/{name}: a link to {target}, which is no image of this archive; "
                "pack what it leads to"
            )
    images = found | {name: found[target] for name, target in links.items()}
    names = tuple(sorted(images, key=natural))
    listed = Found(
        names,
        tuple(sorted(others, key=natural)),
        len(links),
        outermost_empty(sorted(folders), names),
    )
    refuse_empty(listed, where)
    return listed, [images[name] for name in names]


def _looked_at(entry: _Entry, inside: str, look: Callable[[bytes, str], Seen]) -> Packed[Seen]:
    """An image, once its bytes have passed by."""
    if entry.size > LARGEST:
        raise UserError(f"{inside}: {entry.size} bytes are more than an image takes")
    content = entry.read(-1)
    read = partial(entry.read, -1) if entry.keep is None else entry.keep(content)
    return Packed(inside, look(content, inside), hashlib.sha256(content).digest(), read)


def _why(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    if "encrypted" in line or "password" in line:
        return "is encrypted; pack the images anew without a password"
    return f"cannot be read whole ({line})"


def _place(name: str) -> str | None:
    """A member's name below the archive; None for what is hidden, also in hidden folders."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    # What macOS adds to its archives is hidden in folders.
    if not parts or parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
        return None
    return "/".join(parts)


def _target(name: str, link: str) -> str:
    """Where a symbolic link leads to: a name below the archive, if it is one."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return link if target.startswith(("/", "../")) else _place(target) or link


def _add_folders(name: str, folders: set[str]) -> None:
    """A folder and those that hold it."""
    while name:
        folders.add(name)
        name = posixpath.dirname(name)


# ------------------------------------------------------------------ zip


def _of_zip(path: Path, where: str, folders: set[str]) -> Iterator[_Entry]:
    """The members; ``folders`` gets the names of folders."""
    archive = zipfile.ZipFile(path)  # Read from as long as the images are: it closes with them.
    for info in archive.infolist():
        # Some programs on Windows write their own separator.
        name = _place(info.filename.replace("\\", "/"))
        if name is None:
            continue
        if info.is_dir():
            _add_folders(name, folders)
            continue
        _add_folders(posixpath.dirname(name), folders)
        read = partial(_member, archive, info)
        mode = info.external_attr >> 16
        link = None
        if stat.S_ISLNK(mode):
            link = _target(name, read(-1).decode("utf-8", "replace"))
        yield _Entry(name, info.file_size, read, link=link)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, count: int) -> bytes:
    with archive.open(info) as file:
        return file.read(count)


# ------------------------------------------------------------------ tar


def _of_tar(path: Path, where: str, folders: set[str]) -> Iterator[_Entry]:
    """The members in one pass; ``folders`` gets the names of folders."""
    with path.open("rb") as file:
        # Without compression images are read again where they lie.
        plain = not file.read(6).startswith(COMPRESSED)
    kept = _Kept()
    with tarfile.open(path, "r:" if plain else "r|*") as archive:
        for member in archive:
            name = _place(member.name)
            if name is None:
                continue
            if member.isdir():
                _add_folders(name, folders)
                continue
            _add_folders(posixpath.dirname(name), folders)
            link = None
            if member.islnk():
                link = _place(member.linkname) or member.linkname
            elif member.issym():
                link = _target(name, member.linkname)
            elif not member.isreg() and is_image(name):
                raise UserError(f"{where}/{name}: no file")
            size = member.size

            if plain and not member.issparse():
                yield _Entry(name, size, partial(_span, path, member.offset_data, size), link=link)
            else:
                yield _Entry(name, size, partial(_passing, archive, member), kept.keep, link)
        if plain and path.stat().st_size <= archive.offset:
            raise EOFError("ends early")  # Without the blocks of zeros that end a tar.


def _passing(archive: tarfile.TarFile, member: tarfile.TarInfo, count: int) -> bytes:
    content = archive.extractfile(member)
    return b"" if content is None else content.read(count)


def _span(path: Path, offset: int, size: int, count: int) -> bytes:
    wanted = size if count < 0 else min(size, count)
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(wanted)
    if len(content) < wanted:
        raise EOFError("ends early")
    return content


class _Kept:
    """Bytes that cannot be read again: in memory, in a file without a name where they are many."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self.size = 0
        self.lock = threading.Lock()

    def keep(self, content: bytes) -> Callable[[], bytes]:
        start, self.size = self.size, self.size + len(content)
        self.file.write(content)

        def read() -> bytes:
            with self.lock:
                self.file.seek(start)
                return self.file.read(len(content))

        return read
