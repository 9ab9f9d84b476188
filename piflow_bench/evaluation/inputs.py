"""What a metric is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from piflow_bench.evaluation.design import Design, Strata
from piflow_bench.evaluation.metrics.diversity import PairDistances
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.pairs.stratified import IN_A_SUBSET, own_pairs, stratify
from piflow_bench.evaluation.pairs.sums import PairSums
from piflow_bench.evaluation.references.facts import Reference
from piflow_bench.evaluation.settings import Settings

if TYPE_CHECKING:
    from piflow_bench.evaluation.pairs.passes import Passed, Wanted


@dataclass(frozen=True)
class Extras:
    """What some metrics need beside features; rows belong to the generated samples' rows."""

    logits: np.ndarray | None = None
    """``(n, classes)``."""
    labels: np.ndarray | None = None
    """``(n,)``: classes or prompts."""
    spatial: np.ndarray | None = None
    """``(n, s)``."""
    reference_spatial: np.ndarray | Moments | None = None
    """``(m, s)``, or their moments."""
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    """Per-sample scores ``(n,)`` by metric, of metrics that are means of them."""
    pair_distances: Sequence[PairDistances] | None = None
    """LPIPS between all samples of one class or prompt, for each of them."""
    design: Design | None = None
    """How the generated samples were drawn; None: as their labels let on."""
    reference_design: Design | None = None
    """The same of the reference; None: independent draws."""


@dataclass(frozen=True)
class Inputs:
    """Generated and reference features, the blocks of the jackknife, and the settings."""

    rows: np.ndarray
    """Generated features ``(n, d)``, float32 or float64 as they came: copies take their time."""
    reference: Reference | None
    blocks: np.ndarray
    """Block ids ``(n,)``, 0..g-1; one block alone where no intervals are wanted."""
    settings: Settings
    extras: Extras
    wanted: Wanted | None = None
    """What all asked metrics together read off the passes over pairs."""

    def among(self, ours: np.ndarray, theirs: np.ndarray) -> Inputs:
        """Features and blocks of these rows alone, of the generated and the reference side."""
        blocks = np.unique(self.blocks[ours], return_inverse=True)[1].ravel()
        reference = Reference(self.ref.rows[theirs])
        return Inputs(self.rows[ours], reference, blocks, self.settings, Extras())

    def config(self, name: str) -> Any:
        """The settings of a metric of its own, as they are given or by default."""
        from piflow_bench.evaluation.metrics.metric import all_metrics

        own = all_metrics()[name].Config
        assert own is not None, f"metric '{name}' has no Config"
        return self.settings.of_metrics.get(name) or own()

    @cached_property
    def generated(self) -> np.ndarray:
        """The generated features in float64."""
        return np.asarray(self.rows, dtype=np.float64)

    @property
    def n(self) -> int:
        """Number of generated samples."""
        return len(self.rows)

    @property
    def ref(self) -> Reference:
        """The reference, for metrics that need one."""
        assert self.reference is not None
        return self.reference

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return int(self.blocks.max()) + 1

    @property
    def left_out(self) -> np.ndarray | None:
        """The blocks, where there are any to be left out."""
        return self.blocks if self.block_count > 1 else None

    @property
    def strata(self) -> tuple[Strata | None, Strata | None]:
        """Of the samples and of the reference, for unbiased pair statistics."""
        mine, theirs = self.extras.design, self.extras.reference_design
        return mine.strata() if mine else None, theirs.strata() if theirs else None

    @property
    def subset_strata(self) -> tuple[Strata | None, Strata | None]:
        """Those of both sides that have room in KID's subsets."""
        share = IN_A_SUBSET / self.settings.kid_subset_size
        mine, theirs = (
            design.strata(max(2.0, share * design.n)) if design else None
            for design in (self.extras.design, self.extras.reference_design)
        )
        return mine, theirs

    def stratified(self, kernel: str, sums: PairSums) -> PairSums:
        """A kernel's sums over all pairs, weighed by the designs; it is one of ``KERNELS``."""
        mine, theirs = self.strata
        own = reference_own = None
        if mine is not None:
            import torch

            from piflow_bench.evaluation.pairs.passes import KERNELS

            x = torch.from_numpy(self.generated).to(self.settings.device)
            blocks, height = self.left_out, self.settings.block
            own = own_pairs(KERNELS[kernel], x, mine.groups, blocks, height)
        if theirs is not None:
            reference_own = self.ref.own_pairs(kernel, theirs.groups, self.settings)
        chances = [0.0 if each is None else each.chance for each in (mine, theirs)]
        return stratify(sums, own, reference_own, *chances)

    def estimator(self, strata: Sequence[Strata | None]) -> str:
        """What a mean over pairs is, in words; ``strata`` of the samples, then the reference."""
        mine, theirs = ("" if each is None else str(each) for each in strata)
        if mine == theirs:
            return mine or "U-statistic"
        return f"samples {mine or 'not stratified'}, reference {theirs or 'not stratified'}"

    @cached_property
    def passed(self) -> Passed:
        """What the passes over pairs found: computed once, for all metrics."""
        import torch

        from piflow_bench.evaluation.pairs.passes import framed, measure

        s, wanted = self.settings, self.wanted
        assert wanted is not None
        x, y = (torch.from_numpy(r).to(s.device) for r in (self.rows, self.ref.rows))
        points = framed(x, y)
        facts = self.ref.pair_facts(wanted, points, s)
        return measure(x, points, self.blocks, facts, wanted, s.k, s.comparator, s.block)
