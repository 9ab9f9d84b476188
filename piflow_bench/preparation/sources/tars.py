"""Images in a tar file, or in the tars inside it, read at random without unpacking."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.preparation.sources.source import ImageSource, Spans, is_image, ordered


def is_tar(path: Path) -> bool:
    """Whether a file is a tar by its content; UserError where it cannot be read."""
    try:
        return tarfile.is_tarfile(path)
    except OSError as error:
        raise UserError(f"source={path}: cannot be read ({error.strerror})") from error


def tarred(path: Path) -> ImageSource:
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
                            if image.isreg() and is_image(name):
                                start = member.offset_data + image.offset_data
                                found.append((whole, name, (start, image.size)))
                    inside = ""
                elif member.isreg() and is_image(place.name):
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
    names, labels, classes, spans = ordered(rows, beside)
    return ImageSource(
        names, labels, classes, Spans(path, np.array(spans, np.int64)), f"tar, {path}"
    )
