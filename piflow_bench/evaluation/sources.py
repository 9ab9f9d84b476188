"""What is scored and against what: opened and checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.images import NPZ_KEY, Images, npz_members, open_images
from piflow_bench.evaluation.statistics import Statistics, is_statistics, load_statistics


@dataclass(frozen=True)
class Reference:
    """The reference side: images, statistics, or both (ADM's files)."""

    images: Images | None
    statistics: Statistics | None

    @property
    def path(self) -> str:
        """Where it came from."""
        return self.images.path if self.images else self.statistics.path  # type: ignore[union-attr]

    @property
    def count(self) -> int | None:
        """Number of images, where it is known."""
        return len(self.images) if self.images else self.statistics.count  # type: ignore[union-attr]

    def digest(self) -> str:
        """First digits of the sha256 of its content."""
        side = self.images or self.statistics
        assert side is not None
        return side.digest()[:12]


def open_reference(source: Any, workers: int) -> Reference:
    """Reference images or precomputed statistics."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix in (".pkl", ".pickle") and path.exists():
            load_statistics(path)  # Refused, with the way to convert it.
        if is_statistics(path):
            has_images = NPZ_KEY in npz_members(path, f"reference={path}")
            images = open_images(path, "reference", workers) if has_images else None
            return Reference(images, load_statistics(path))
    return Reference(open_images(source, "reference", workers), None)


@dataclass(frozen=True)
class Sources:
    """All inputs of one scoring; ``count`` samples are scored, the first ones."""

    samples: Images
    count: int
    reference: Reference | None = None
    teacher: Images | None = None
    prompts: Sequence[str] | None = None
    labels: np.ndarray | None = None
    """Class or prompt of every scored sample ``(count,)``."""

    def classes(self) -> str:
        """How samples spread over classes, in words."""
        if self.labels is None:
            return "not stated"
        sizes = np.unique(self.labels, return_counts=True)[1]
        return f"{len(sizes)}, of {sizes.min()} to {sizes.max()} samples"


def open_sources(
    samples: Any,
    reference: Any,
    count: int | None,
    *,
    teacher: Any = None,
    prompts: Any = None,
    labels: Any = None,
    workers: int = 2,
) -> Sources:
    """Open everything.

    Args:
        samples: generated images (see ``images.open_images``).
        reference: images or statistics; None for metrics that need none.
        count: how many samples are scored; None for all.
        teacher: the teacher's images for the same noise, one a sample.
        prompts: one a sample: a list, a .txt file of lines or a .json list.
        labels: one a sample: an array or a .npy file; None for those that ``samples`` states, or
            the prompts.
        workers: threads that decode images.
    """
    generated = open_images(samples, "samples", workers)
    total = len(generated) if count is None else count
    if total > len(generated):
        raise UserError(
            f"samples: {len(generated)} images, but {total} are asked for; set "
            f"n={len(generated)} to score them all"
        )
    if total < 2:
        raise UserError(f"samples: n={total}, but at least 2 images are needed")
    others = None if teacher is None else open_images(teacher, "teacher", workers)
    if others is not None:
        _check_count(len(others), total, "teacher: {} images")
        if (others.height, others.width) != (generated.height, generated.width):
            raise UserError(
                f"teacher: images of {others.width}x{others.height} pixels, the samples' are "
                f"{generated.width}x{generated.height}"
            )
    texts = None if prompts is None else _prompts(prompts)
    if texts is not None:
        _check_count(len(texts), total, "prompts: {} prompts")
        texts = texts[:total]
    classes = generated.labels if labels is None else _labels(labels)
    if classes is None and texts is not None:
        classes = np.array(texts)
    if classes is not None:
        _check_count(len(classes), total, "labels: {} labels")
        classes = classes[:total]
    target = None if reference is None else open_reference(reference, workers)
    if target is not None and target.count == 1:
        raise UserError("reference: 1 image, but at least 2 are needed")
    return Sources(generated, total, target, others, texts, classes)


def _check_count(found: int, wanted: int, text: str) -> None:
    if found < wanted:
        raise UserError(f"{text.format(found)} for {wanted} samples; one a sample is needed")


def _prompts(source: Any) -> list[str]:
    from piflow_bench.evaluation.clip_score import read_prompts

    return read_prompts(Path(source)) if isinstance(source, str | Path) else list(source)


def _labels(source: Any) -> np.ndarray:
    array = source
    if isinstance(source, str | Path):
        try:
            array = np.load(source, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"labels={source}: not a readable npy file ({error})") from error
    array = np.asarray(array)
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise UserError(
            f"labels: whole numbers or names, one a sample, not {array.shape} {array.dtype}"
        )
    return array.astype(str)
