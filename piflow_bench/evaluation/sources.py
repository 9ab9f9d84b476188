"""What is scored and against what: opened and checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.labels import read_labels
from piflow_bench.evaluation.pairing import by_name, check_counts, check_order
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.labels import as_classes
from piflow_bench.evaluation.pictures.npz import NPZ_KEY, npz_members
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.pictures.spaces import Look
from piflow_bench.evaluation.references.statistics import Statistics, is_statistics, load_statistics
from piflow_bench.evaluation.subsets import described, subset
from piflow_bench.files.prompts import read_prompts
from piflow_bench.laws import BY_PROMPT


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


def open_reference(source: Any, workers: int, look: Look | None = None) -> Reference:
    """Reference images or precomputed statistics, of at least 2 images."""
    target = _reference(source, workers, look)
    if target.count == 1:
        raise UserError("reference: 1 image, but at least 2 are needed")
    return target


def _reference(source: Any, workers: int, look: Look | None) -> Reference:
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix in (".pkl", ".pickle") and path.exists():
            load_statistics(path)  # Refused, with the way to convert it.
        if is_statistics(path):
            has_images = NPZ_KEY in npz_members(path, f"reference={path}")
            images = open_images(path, "reference", workers) if has_images else None
            return Reference(images, load_statistics(path))
    return Reference(open_images(source, "reference", workers, look), None)


@dataclass(frozen=True)
class Sources:
    """All inputs of one scoring: the samples that are scored, and what belongs to them."""

    samples: Images
    reference: Reference | None = None
    teacher: Images | None = None
    prompts: Sequence[str] | None = None
    labels: np.ndarray | None = None
    """Class or prompt of every sample ``(n,)``."""
    taken: str = ""
    """Which of the given samples these are, in words, where they are not all."""
    design: Design | None = None
    """How the scored samples were drawn; None: as their labels let on."""

    @property
    def count(self) -> int:
        """How many samples are scored."""
        return len(self.samples)

    def classes(self) -> str:
        """How samples spread over classes, in words."""
        if self.labels is None:
            return "not stated"
        sizes = np.unique(self.labels, return_counts=True)[1]
        return f"{len(sizes)}, of {sizes.min()} to {sizes.max()} samples"


@dataclass(frozen=True)
class Given:
    """A whole set and what belongs to it, before some of it is taken."""

    samples: Images
    reference: Reference | None
    teacher: Images | None
    prompts: Sequence[str] | None
    labels: np.ndarray | None
    """Class or prompt of the samples that have one."""
    count: int
    """How many samples have all that belongs to them: the first ones."""
    by_prompt: bool = False
    """Whether the labels are the prompts, each of which was drawn with all its samples."""

    def places(self, count: int | None) -> np.ndarray:
        """Places ``(n,)`` of the samples that are scored: all, or ``count`` by ``subset``.

        Raises:
            UserError: where there are not as many.
        """
        total = len(self.samples) if count is None else count
        if total > self.count:
            raise UserError(f"n={total}: only {self.count} samples have all that belongs to them")
        return subset(self.count, total, self.labels)

    def take(self, places: np.ndarray) -> Sources:
        """The samples at these places, with what belongs to them."""
        return Sources(
            self.samples.take(places),
            self.reference,
            None if self.teacher is None else self.teacher.take(places),
            None if self.prompts is None else [self.prompts[i] for i in places],
            None if self.labels is None else self.labels[places],
            described(len(self.samples), len(places), self.labels, self.count),
            self._design(places),
        )

    def _design(self, places: np.ndarray) -> Design:
        if self.by_prompt and self.labels is not None:
            return Design.of(len(places), self.labels[places], BY_PROMPT)
        return Design.part(places, self.labels)


def open_given(
    samples: Any,
    reference: Reference | None,
    counts: Sequence[int | None],
    *,
    cut: bool = False,
    teacher: Any = None,
    prompts: Any = None,
    labels: Any = None,
    workers: int = 2,
    look: Look | None = None,
) -> Given:
    """Open a set of samples and all that belongs to it.

    Args:
        samples: generated images (see ``pictures.opening.open_images``).
        reference: what it is scored against; None for metrics that need none.
        counts: how many samples will be scored; None for all.
        cut: whether sets of unequal length are paired as far as the shortest goes.
        teacher: the teacher's images for the same noise, one a sample.
        prompts: one a sample: a list, a .txt file of lines or a .json list; or by the samples'
            names, a dictionary or a .json file of one.
        labels: one a sample: an array, or a file (see ``labels.read_labels``); or by name; None for
            those that ``samples`` states, or the prompts.
        workers: threads that decode images.
        look: what it takes to look at samples of a run.

    Raises:
        UserError: naming what is wrong, also where what is paired by place may not belong.
    """
    generated = open_images(samples, "samples", workers, look)
    for count in counts:
        total = len(generated) if count is None else count
        if total > len(generated):
            raise UserError(
                f"samples: {len(generated)} images, but {total} are asked for; set "
                f"n={len(generated)} to score them all"
            )
        if total < 2:
            raise UserError(f"samples: n={total}, but at least 2 images are needed")
    others = None if teacher is None else _teacher(teacher, generated, cut, workers, look)
    texts = None if prompts is None else _texts(prompts, generated, cut)
    classes = generated.labels if labels is None else _labels(labels, generated, cut)
    by_prompt = classes is None and texts is not None
    if by_prompt:
        classes = np.array(texts)
    paired = [each for each in (others, texts, classes) if each is not None]
    shortest = min(map(len, [generated, *paired]))
    if classes is not None:
        classes = classes[:shortest]
    return Given(generated, reference, others, texts, classes, shortest, by_prompt)


def _teacher(source: Any, samples: Images, cut: bool, workers: int, look: Look | None) -> Images:
    """The teacher's images in the samples' order."""
    found = open_images(source, "teacher", workers, look)
    check_counts("teacher", len(found), "images", len(samples), cut)
    if (found.height, found.width) != (samples.height, samples.width):
        raise UserError(
            f"teacher: images of {found.width}x{found.height} pixels, the samples' are "
            f"{samples.width}x{samples.height}"
        )
    if samples.names and found.names:
        return found.take(by_name(samples.names, found.names, "teacher"))
    check_order(samples.names or found.names, "teacher")
    return found


def _texts(source: Any, samples: Images, cut: bool) -> list[str]:
    """A prompt for every sample, in the samples' order."""
    found = source
    if isinstance(source, str | Path):
        found = read_prompts(Path(source), f"prompts={source}")
    return list(_in_order(found, samples, "prompts", cut))


def _labels(source: Any, samples: Images, cut: bool) -> np.ndarray:
    """A label for every sample, in the samples' order."""
    given = read_labels(source)
    values = list(given.values()) if isinstance(given, Mapping) else given
    try:
        array = np.asarray(values)
    except ValueError as error:  # Lists of unequal length.
        raise UserError("labels: whole numbers or names, one a sample, not lists") from error
    found = as_classes(array)
    if found is None:
        raise UserError(
            f"labels: whole numbers or names, one a sample, not {array.shape} {array.dtype}"
        )
    given = dict(zip(given, found, strict=True)) if isinstance(given, Mapping) else found
    return np.asarray(_in_order(given, samples, "labels", cut)).astype(str)


def _in_order(given: Any, samples: Images, what: str, cut: bool) -> Any:
    """Partners by place as they are, partners by name in the samples' order."""
    check_counts(what, len(given), what, len(samples), cut)
    if not isinstance(given, Mapping):
        check_order(samples.names, what)
        return given
    if samples.names is None:
        raise UserError(f"{what}: given by name, but the samples are no folder of named images")
    names = list(given)
    return [given[names[place]] for place in by_name(samples.names, names, what)]
