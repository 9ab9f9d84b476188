"""LPIPS on VGG16 (Zhang et al. 2018): a perceptual distance of aligned images.

Of each of VGG16's five blocks LPIPS takes the last feature map f (h x w positions, c channels, of
unit length at every position) and weighs its channels:

    d(a, b) = sum over blocks of (1 / hw) sum over positions of sum over c of w_c (f_a - f_b)^2

(their equation 1, where w_c is squared). As no w_c is negative, this is the squared Euclidean
distance of the vectors that stack sqrt(w_c / hw) f. One vector an image serves all its pairs: n
images cost n passes of the network, not n^2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import (
    channels_first,
    find_weights,
)
from piflow_bench.evaluation.pictures.uint8 import signed
from piflow_bench.files.digests import digest
from piflow_bench.files.weights import read_state

FILE = "weights-vgg16-lpips.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
"""LPIPS 0.1's channel weights, as its authors published them."""
VGG_FILE = "vgg16-397923af.pth"
VGG_URL = f"https://download.pytorch.org/models/{VGG_FILE}"
SETTING = "lpips.weights"

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of VGG16's blocks; each halves the map of the one before."""
SMALLEST = 2 ** (len(BLOCKS) - 1)
"""Side of the smallest image that leaves the last block one position."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for images in [-1, 1], rounded as LPIPS has them."""
EPSILON = 1e-10
PIXELS = 2**18
"""Pixels in one pass of the network, which bounds the memory of its maps (some 200 MB)."""
GIBIBYTE = 2**30


class Network(nn.Module):
    """VGG16 up to its last block's map, and the weight of each block's channels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for number, (channels, depth) in enumerate(BLOCKS):
            if number:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(inplace=True)]
                before = channels
        self.features = nn.Sequential(*layers)
        self.weights = nn.ParameterList(torch.empty(1, channels, 1, 1) for channels, _ in BLOCKS)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """The vectors ``(b, c * h * w)`` of every block for images ``(b, 3, h, w)`` in [-1, 1]."""
        for weight, f in zip(self.weights, self.maps(x), strict=True):
            norm = torch.linalg.vector_norm(f, dim=1, keepdim=True)
            yield (f / (norm + EPSILON) * (weight / f[0, 0].numel()).sqrt()).flatten(1)

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """The blocks' last feature maps ``(b, c, h, w)``."""
        shift, scale = (x.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
        x = (x - shift) / scale
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                yield x
            x = layer(x)
        yield x


@dataclass(frozen=True)
class Lpips:
    """LPIPS with its weights loaded.

    Images are ``(b, h, w, 3)`` uint8 of at least 16 x 16 pixels, taken at their own size: VGG16
    halves them four times. LPIPS was fitted on patches of 64 x 64, and the same pictures are at
    another distance at another size: compare distances of images of one size alone.
    """

    network: Network
    identity: str
    """What decides its numbers: the variant, and the first digits of the weights' sha256."""
    device: str = "cpu"

    @torch.inference_mode()
    def embed(self, images: np.ndarray) -> Tensor:
        """Vectors ``(b, d)`` float32 on the device whose squared distances are LPIPS.

        They are long: d is about 122 numbers a pixel, 32 MB for an image of 256 x 256.

        Raises:
            UserError: for images that are too small or not uint8 RGB.
        """
        _check(images)
        found = torch.empty(len(images), _length(*images.shape[1:3]), device=self.device)
        # On a GPU convolutions would by default be rounded to TF32.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for rows in _passes(images):
                x = signed(channels_first(images[rows]).to(self.device))
                start = 0
                for part in self.network(x):
                    stop = start + part.shape[1]
                    found[rows, start:stop] = part
                    start = stop
        return found

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """LPIPS ``(b,)`` float64 of every image with the same row of the other set, 0 for equals.

        Raises:
            UserError: as ``embed``, and for sets of different shapes.
        """
        _check(a)
        if a.shape != b.shape:
            raise UserError(f"LPIPS needs aligned sets, one a sample, not {a.shape} and {b.shape}")
        parts = [_squared(self.embed(a[rows]), self.embed(b[rows])) for rows in _passes(a)]
        return torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0)

    def pair_distances(self, images: np.ndarray, memory: float = 4 * GIBIBYTE) -> np.ndarray:
        """LPIPS ``(g, g)`` float64 of all pairs of ``g`` images: symmetric, 0 on the diagonal.

        ``memory`` bounds the bytes of vectors held at once. Where those of all images fit, each
        image passes the network once. Otherwise the images meet in blocks, two at a time, and with
        k blocks an image passes (k + 1) / 2 times on average.

        Raises:
            UserError: as ``embed``.
        """
        _check(images)
        count, vector = len(images), 4 * _length(*images.shape[1:3])
        # Of blocks three are held for a moment: while one is read, the two before it.
        size = max(1, count if count * vector <= memory else int(memory / 3 / vector))
        blocks = [slice(start, start + size) for start in range(0, count, size)]
        found = np.zeros((count, count))
        for number, rows in enumerate(blocks):
            left = self.embed(images[rows])
            for columns in blocks[number:]:
                right = left if columns == rows else self.embed(images[columns])
                found[rows, columns] = _pairs(left, right)
                found[columns, rows] = found[rows, columns].T
        return found


def load(weights: str | None = None, device: str = "cpu") -> Lpips:
    """LPIPS from one file of weights.

    The published file (``FILE``) holds the weights of the channels alone; VGG16's own are then
    torchvision's ``VGG_FILE``, from the cache folder or downloaded. A file that holds VGG16 as well
    (a state dict of the whole network, as torch-fidelity or LPIPS's authors name its parts) needs
    no other.

    Args:
        weights: path of the file; None for the cache folder, or a download.
        device: cpu, cuda or cuda:1.

    Raises:
        UserError: for a file that is missing, holds more than tensors, is of another network, or
            has a negative weight.
    """
    path = find_weights("LPIPS", weights, FILE, URL, SHA256, SETTING)
    state = read_state(path, f"{SETTING}={path}")
    network, files = Network(), [path]
    _fill(network.weights, state, r"lin(\d)\.model\.1\.weight", path)
    if not all(bool((weight >= 0).all()) for weight in network.weights):
        raise UserError(f"{SETTING}={path}: negative weights, with which LPIPS is no distance")
    if not any(key.startswith("net.") for key in state):
        files.append(find_weights("VGG16", None, VGG_FILE, VGG_URL, "397923af", SETTING))
        state = read_state(files[-1], f"{SETTING}={files[-1]}")
    _fill(network.features, state, r"(?:features|net\.slice\d)\.(\d+\.\w+)", files[-1])
    return Lpips(network.requires_grad_(False).eval().to(device), _identity(files), device)


def identity_of(weights: str | None = None) -> str:
    """What decides the numbers of :func:`load`; errors as there, for files that are missing."""
    path = find_weights("LPIPS", weights, FILE, URL, SHA256, SETTING)
    files = [path]
    if not any(key.startswith("net.") for key in read_state(path, f"{SETTING}={path}")):
        files.append(find_weights("VGG16", None, VGG_FILE, VGG_URL, "397923af", SETTING))
    return _identity(files)


def _identity(files: Sequence[Path]) -> str:
    return f"LPIPS on VGG16 (weights {' + '.join(digest(file)[:12] for file in files)})"


def _fill(part: nn.Module, state: dict[str, Tensor], pattern: str, path: Path) -> None:
    """Load what ``pattern`` matches, under the names of its group."""
    matches = ((re.fullmatch(pattern, key), value) for key, value in state.items())
    try:
        part.load_state_dict({match[1]: value for match, value in matches if match})
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{SETTING}={path}: not LPIPS's on VGG16: {line}") from error


def _length(height: int, width: int) -> int:
    """Numbers in the vector of an image."""
    return sum(
        channels * (height >> halvings) * (width >> halvings)
        for halvings, (channels, _) in enumerate(BLOCKS)
    )


def _passes(images: np.ndarray) -> list[slice]:
    """The rows that pass the network together."""
    size = max(1, PIXELS // (images.shape[1] * images.shape[2]))
    return [slice(start, start + size) for start in range(0, len(images), size)]


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1)


def _pairs(a: Tensor, b: Tensor) -> np.ndarray:
    """Squared distances ``(m, n)`` of rows ``(m, d)`` and ``(n, d)``.

    By differences, pair by pair: a product of matrices would cancel for images that are alike, and
    all differences at once would be as large as the rows.
    """
    return torch.stack([torch.stack([_squared(x, y) for y in b]) for x in a]).cpu().numpy()


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise UserError(
            f"LPIPS takes images (n, height, width, 3) of uint8, not {images.shape} of "
            f"{images.dtype}"
        )
    height, width = images.shape[1:3]
    if min(height, width) < SMALLEST:
        raise UserError(
            f"LPIPS needs images of at least {SMALLEST}x{SMALLEST} pixels, not {width}x{height}"
        )
