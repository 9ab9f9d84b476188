"""Scores of images that come batch by batch, as in a training loop."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation import needs
from piflow_bench.evaluation.cache import Arrays
from piflow_bench.evaluation.cautions import LOOKED_AT
from piflow_bench.evaluation.extraction import DIGESTS, extract
from piflow_bench.evaluation.extractors.extractor import get_extractor, usual_batch
from piflow_bench.evaluation.measured import Measuring, measure_set
from piflow_bench.evaluation.metrics.metric import all_metrics, use_plugins
from piflow_bench.evaluation.options import Options
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.protocols import USUAL, Protocol
from piflow_bench.evaluation.settings import make_settings
from piflow_bench.evaluation.sources import Given, open_reference
from piflow_bench.evaluation.tables import rows_of
from piflow_bench.file_plugins import places

if TYPE_CHECKING:
    import pandas as pd

_OF_FEATURES = frozenset({"generated", "reference", "spatial", "logits", "labels"})
"""Inputs of metrics that an ``Evaluator`` keeps; the others are images."""


class Evaluator:
    """Features of images, kept as they come, and their scores at any time.

    The reference's features are extracted once, here. Only features stay in memory (4 bytes a
    number: 8 kB an image with Inception), and nothing goes to a disk unless ``cache`` is a folder,
    which then holds the reference's alone. The scores are those of `evaluate` for the same images
    in the same order, with the same protocol hash.

    Args:
        reference: images or statistics, as `evaluate` takes them; None for metrics that need none.
        protocol: a named protocol, or one of your own.
        extractor: another extractor than the protocol's.
        weights: the extractor's weights, where they are not in the cache folder.
        metrics: other metrics than the protocol's; those of images beside the samples (a teacher's,
            prompts, LPIPS) are `evaluate`'s.
        device: where features and metrics are computed.
        precision: of the network, in place of the protocol's.
        compiled: whether ``torch.compile`` takes the network first.
        batch: images at once in the network; None for what suits the device.
        workers: threads that decode the reference.
        cache: folder of the reference's finished features; None for none.
        plugins: a file or folder of extractors, metrics and spaces of one's own, or several.
        space: files of the space that a reference's samples lie in, where it is of a run.
        settings: settings of the metrics that override the protocol's.

    Raises:
        UserError: naming the setting and what to do.
    """

    def __init__(
        self,
        reference: Any = None,
        protocol: str | Protocol = USUAL,
        *,
        extractor: str | None = None,
        weights: str | None = None,
        metrics: str | list[str] | None = None,
        device: str = Options.device,
        precision: str | None = None,
        compiled: bool = Options.compiled,
        batch: int | None = None,
        workers: int = Options.workers,
        cache: str | Path | None = None,
        plugins: str | Sequence[str] | None = None,
        space: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        options = Options(
            extractor=extractor,
            metrics=metrics,
            precision=precision,
            device=device,
            cache=cache,
            plugins=plugins,
            space=space or {},
            settings=settings,
        )
        self._rules = options.rules(protocol)
        self._folders = places(plugins)
        use_plugins(self._folders)
        needs.check_metrics(self._rules.metrics)
        make_settings(self._rules.settings)
        for name in self._rules.metrics:
            for need in all_metrics()[name].needs:
                if need not in _OF_FEATURES:
                    raise UserError(
                        f"metric '{name}' needs more than the features that an Evaluator keeps; "
                        "piflow_bench.evaluate computes it"
                    )
                if need == "reference" and reference is None:
                    raise UserError(f"metric '{name}' needs reference=")
        self._reference = None
        if reference is not None:
            self._reference = open_reference(reference, workers, options.look())
        self._network = get_extractor(
            self._rules.extractor, weights, device, self._rules.precision, compiled, self._folders
        )
        needs.check_outputs(self._rules.metrics, self._network)
        needs.check_statistics(self._rules.metrics, self._reference, self._network)
        self._batch, self._device = batch or usual_batch(device), device
        self._theirs: Arrays | None = None
        if self._reference is not None and self._reference.images is not None:
            self._theirs = self._features(self._reference.images, options.place())
        self.reset()

    def reset(self) -> None:
        """Forget all images; the reference stays."""
        self._parts: list[Arrays] = []
        self._labels: list[np.ndarray] = []
        self._first = np.zeros((0, 0, 0, 3), np.uint8)

    def __len__(self) -> int:
        """How many images there are."""
        return sum(len(part[DIGESTS]) for part in self._parts)

    def update(self, images: Any, labels: Any = None) -> None:
        """Add images.

        Args:
            images: ``(n, 3, h, w)`` or ``(n, h, w, 3)``, uint8 or floats in [0, 1], on any device;
                one channel is repeated.
            labels: class or prompt of each ``(n,)``, numbers or strings; for all images or none.

        Raises:
            UserError: where they are no images, or not like those before; nothing is added then.
        """
        given = open_images(images, "images")
        known = given.labels if labels is None else _labels(labels, len(given))
        if self._parts and (known is None) == bool(self._labels):
            raise UserError("labels: given for some images and not for others")
        height, width = self._first.shape[1:3] if self._parts else (given.height, given.width)
        if (given.height, given.width) != (height, width):
            raise UserError(
                f"images: of {given.width}x{given.height} pixels, those before are {width}x{height}"
            )
        self._parts.append(self._features(given, None))
        if len(self._first) < LOOKED_AT:
            some = given.read(0, min(LOOKED_AT - len(self._first), len(given)))
            self._first = some if not len(self._first) else np.concatenate([self._first, some])
        if known is not None:
            self._labels.append(known)

    def compute(self) -> pd.DataFrame:
        """Scores of all images since the start or ``reset``: a table as `evaluate` returns it.

        Raises:
            UserError: for fewer images than the metrics or the protocol need.
        """
        use_plugins(self._folders)
        total = len(self)
        if total < 2:
            raise UserError(f"compute: {total} images so far, but at least 2 are needed")
        if self._rules.scored is not None and total < self._rules.scored:
            raise UserError(
                f"compute: {total} images so far, protocol '{self._rules.name}' is of "
                f"{self._rules.scored}"
            )
        ours = {name: np.concatenate([p[name] for p in self._parts]) for name in self._parts[0]}
        labels = np.concatenate(self._labels) if self._labels else None
        given = Given(self._images(ours[DIGESTS]), self._reference, None, None, labels, total)
        places = given.places(self._rules.scored)
        sources = given.take(places)
        needs.check_inputs(self._rules.metrics, sources)
        by = Measuring(
            self._rules,
            (),
            lpips=None,
            scorers={},
            device=self._device,
            batch=self._batch,
            cache=None,
            report=lambda what, i, n: None,
        )
        taken = {name: rows[places] for name, rows in ours.items()}
        found = measure_set(by, sources, taken, self._theirs, lambda what, images: {})
        return rows_of(found, self._rules, self._network)

    def _features(self, images: Images, cache: Path | None) -> Arrays:
        return extract(images, self._network, cache, self._batch)

    def _images(self, digests: np.ndarray) -> Images:
        """What there is to say of the images: cautions look at a few, the first ones here."""

        def rows(places: np.ndarray) -> np.ndarray:
            return self._first[places % len(self._first)]

        height, width = self._first.shape[1:3]
        digest = partial(_digest_of, digests)
        return Images("images given to an Evaluator", len(digests), height, width, rows, digest)


def _digest_of(digests: np.ndarray) -> str:
    return hashlib.sha256(digests.tobytes()).hexdigest()


def _labels(labels: Any, count: int) -> np.ndarray:
    """Labels ``(n,)`` as strings."""
    found = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if found.ndim != 1 or found.dtype.kind not in "iuU":
        raise UserError(
            f"labels: whole numbers or names, one an image, not {found.shape} {found.dtype}"
        )
    if len(found) != count:
        raise UserError(f"labels: {len(found)} for {count} images")
    return found.astype(str)
