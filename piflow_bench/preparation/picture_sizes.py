"""One size for all pictures, by a rule that has a name.

centre: resized until it just covers the size (Lanczos, antialiased), then the centre of it.
adm: ADM's crop for squares, halved by boxes while twice too large, bicubic, then the centre.
none: the whole picture resized (Lanczos, antialiased), whatever that does to its aspect.
pad: every pixel as it is, in the middle of a black picture of the size.

A picture that has the size already is taken as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.pictures.pillow import Header
from piflow_bench.preparation.pixels import centre_crop

CROPS = ("centre", "adm", "none", "pad")
NEARLY = 0.01
"""By how much an aspect may change by rounding alone."""


def as_size(size: int | Sequence[int] | None, crop: str) -> tuple[int, int] | None:
    """Height and width, pixels.

    Raises:
        UserError: for what is no size, and for rules that there are not or that need a square.
    """
    if crop not in CROPS:
        raise UserError(f"crop={crop}: {nearest(crop, list(CROPS))}")
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise UserError(f"size={size}: pixels are meant, SIDE or [HEIGHT, WIDTH], at least 1")
    height, width = sides
    if crop == "adm" and height != width:
        raise UserError(f"size={size}: crop=adm makes squares; choose crop=centre")
    return height, width


def common_size(headers: Sequence[Header], names: Sequence[str], where: str) -> tuple[int, int]:
    """Height and width of all pictures.

    Raises:
        UserError: if they differ.
    """
    sizes = [(each.height, each.width) for each in headers]
    (often, count), *others = Counter(sizes).most_common()
    if others:
        other = next(i for i, size in enumerate(sizes) if size != often)
        raise UserError(
            f"{where}: images of {len(others) + 1} sizes: {count} of {len(sizes)} are "
            f"{_shown(often)}, {names[other]} is {_shown(sizes[other])}; set size={min(often)} "
            "(resized and cropped to that square) or size=[HEIGHT, WIDTH]"
        )
    return often


def fitted(pixels: np.ndarray, size: tuple[int, int], crop: str) -> np.ndarray:
    """A picture ``(h, w, c)`` uint8 of 1 or 3 channels, at a size by a rule."""
    if pixels.shape[:2] == size:
        return pixels
    if crop == "pad":
        return _padded(pixels, *size)
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if crop == "none":
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    else:
        image = centre_crop(image, size[0]) if crop == "adm" else _covering(image, *size)
    return np.asarray(image).reshape(*size, pixels.shape[2])


def _padded(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    framed = np.zeros((height, width, pixels.shape[2]), np.uint8)
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    framed[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return framed


def _covering(image: Any, height: int, width: int) -> Any:
    from PIL import Image

    factor = max(height / image.height, width / image.width)
    scaled = round(image.width * factor), round(image.height * factor)
    image = image.resize(scaled, Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def refuse_larger(
    headers: Sequence[Header], names: Sequence[str], size: tuple[int, int], where: str
) -> None:
    """Refuse pictures that no frame of a size can hold.

    Raises:
        UserError: naming the first of them.
    """
    height, width = size
    large = [i for i, each in enumerate(headers) if each.height > height or each.width > width]
    if large:
        most = max(each.height for each in headers), max(each.width for each in headers)
        raise UserError(
            f"{where}: crop=pad adds a frame, and {len(large)} of {len(headers)} images are larger "
            f"than {_shown(size)}, such as {names[large[0]]}, {_shown_of(headers[large[0]])}; set "
            f"size=[{most[0]},{most[1]}] or more, or crop=centre"
        )


def size_cautions(
    headers: Sequence[Header], names: Sequence[str], size: tuple[int, int], crop: str
) -> Iterator[str]:
    """What a rule does to pictures that are too small for it, or of another aspect."""
    if crop == "pad":
        return
    height, width = size
    small = [i for i, each in enumerate(headers) if each.height < height or each.width < width]
    if small:
        yield (
            f"{len(small)} of {len(headers)} images are smaller than {_shown(size)} and were "
            f"enlarged, such as {names[small[0]]}, {_shown_of(headers[small[0]])}"
        )
    other = [
        i
        for i, each in enumerate(headers)
        if abs(each.width * height / (each.height * width) - 1) > NEARLY
    ]
    if other:
        what = "were stretched" if crop == "none" else "lost what is beyond the crop"
        yield (
            f"{len(other)} of {len(headers)} images are of another aspect than {_shown(size)} and "
            f"{what}, such as {names[other[0]]}, {_shown_of(headers[other[0]])}"
        )


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _shown_of(header: Header) -> str:
    return _shown((header.height, header.width))
