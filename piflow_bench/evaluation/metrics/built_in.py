"""The metrics that come with the project."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from piflow_bench.evaluation.inputs import Inputs
from piflow_bench.evaluation.metrics import distances, diversity, frechet, projections
from piflow_bench.evaluation.metrics.by_sample import BY_SAMPLE
from piflow_bench.evaluation.metrics.logits import inception_score
from piflow_bench.evaluation.metrics.metric import PAIRS, SUBSETS, Metric, Scored
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.pairs.polynomial import cubic_sums, prefers_moments
from piflow_bench.evaluation.pairs.sums import PairSums
from piflow_bench.evaluation.references.facts import factored


def _from_sums(name: str, sums: PairSums, statistic: Callable[..., float]) -> Scored:
    blocks = range(len(sums.counts)) if len(sums.counts) > 1 else ()
    return {name: (statistic(sums), [statistic(sums, b) for b in blocks])}


def _fd(inputs: Inputs) -> Scored:
    found = frechet.fd_with_replicates(inputs.rows, inputs.blocks, inputs.ref.frechet())
    return {"fd": found}


def _sfd(inputs: Inputs) -> Scored:
    known = inputs.extras.reference_spatial
    assert inputs.extras.spatial is not None and known is not None
    moments = known if isinstance(known, Moments) else Moments.from_features(known)
    reference = factored(moments)
    found = frechet.fd_with_replicates(inputs.extras.spatial, inputs.blocks, reference)
    return {"sfd": found}


def _fd_infinity(inputs: Inputs) -> Scored:
    reference, seed = inputs.ref.frechet(), inputs.settings.fd_infinity_seed
    found = frechet.fd_infinity_with_replicates(inputs.generated, inputs.blocks, reference, seed)
    return {"fd_infinity": found}


def _kid(inputs: Inputs) -> Scored:
    """Replicates keep the drawn subsets and take the block's members out of each of them."""
    s, x, y = inputs.settings, inputs.generated, inputs.ref.features
    strata = inputs.subset_strata
    groups = [None if each is None else each.groups for each in strata]
    size = s.kid_subset_size
    draws = distances.kid_draws(len(x), len(y), s.kid_subsets, size, s.kid_seed, *groups)
    values = distances.kid_subset_values(x, y, draws, inputs.blocks, *strata)
    mean = values.mean(axis=0)
    return {"kid": (float(mean[0]), mean[1:]), "kid_std": (float(np.std(values[:, 0])), ())}


def _kid_exact(inputs: Inputs) -> Scored:
    n, (m, d) = inputs.n, inputs.ref.rows.shape
    if prefers_moments(n, m, d):
        sums = cubic_sums(inputs.generated, inputs.blocks, m, inputs.ref.third_moments())
    else:
        sums = inputs.passed.kernels["cubic"]
    return _from_sums("kid_exact", inputs.stratified("cubic", sums), distances.kid_exact)


def _unit_mmd(name: str) -> Callable[[Inputs], Scored]:
    def compute(inputs: Inputs) -> Scored:
        return _from_sums(name, inputs.passed.kernels["directions"], distances.cmmd)

    return compute


def _energy(inputs: Inputs) -> Scored:
    sums = inputs.stratified("distance", inputs.passed.kernels["distance"])
    return _from_sums("energy_distance", sums, distances.energy_distance)


def _mind(inputs: Inputs) -> Scored:
    s = inputs.settings
    return {
        "mind": projections.mind_replicates(
            inputs.generated, inputs.ref.features, s.mind_directions, s.mind_seed, inputs.left_out
        )
    }


def _sliced(inputs: Inputs) -> Scored:
    s, x = inputs.settings, inputs.generated
    chosen = projections.unit_directions(s.sliced_directions, x.shape[1], s.sliced_seed)
    square, left = projections.sliced_squares(x, inputs.ref.features, chosen, inputs.left_out)
    return {"sliced_wasserstein": (float(np.sqrt(square)), np.sqrt(left))}


def _inception(inputs: Inputs) -> Scored:
    s, logits = inputs.settings, inputs.extras.logits
    assert logits is not None
    mean, spread = inception_score(logits, s.is_splits, s.is_shuffle, s.is_seed)
    left: Sequence[float] = ()
    if inputs.block_count > 1:
        left = [
            inception_score(logits, s.is_splits, s.is_shuffle, s.is_seed, inputs.blocks == b)[0]
            for b in range(inputs.block_count)
        ]
    return {"is": (mean, left), "is_std": (spread, ())}


def _balls(inputs: Inputs) -> Scored:
    found = inputs.passed.balls
    apart = ("precision", "recall") if inputs.settings.neighbour_precision == "float16" else ()
    return {n: (each.value, each.replicates) for n, each in found.items() if n not in apart}


def _precision_recall(inputs: Inputs) -> Scored:
    s = inputs.settings
    if s.neighbour_precision != "float16":
        return _balls(inputs)
    import torch

    from piflow_bench.evaluation.metrics.adm import precision_recall

    both = (inputs.generated, inputs.ref.features)
    x, y = (torch.from_numpy(rows).to(s.device) for rows in both)
    found = precision_recall(x, y, inputs.blocks, s.k, s.comparator, s.block)
    return {name: (each.value, each.replicates) for name, each in found.items()}


def _matched_recall(inputs: Inputs) -> Scored:
    import torch

    from piflow_bench.evaluation.pairs.matched import matched_recall
    from piflow_bench.evaluation.pairs.passes import Wanted, framed

    s = inputs.settings
    x, y = (torch.from_numpy(r).to(s.device) for r in (inputs.generated, inputs.ref.features))
    points = framed(x, y)
    facts = inputs.ref.pair_facts(Wanted(balls=True), points, s)
    found = matched_recall(x, points, inputs.blocks, facts, s.k, s.comparator, s.block)
    return {"matched_recall": (found.value, found.replicates)}


def _authpct(inputs: Inputs) -> Scored:
    found = inputs.passed.authentic
    assert found is not None
    return {"authpct": (found.value, found.replicates)}


def _vendi(inputs: Inputs) -> Scored:
    return {"vendi": diversity.vendi_replicates(inputs.rows, inputs.blocks)}


def _pairwise(inputs: Inputs) -> Scored:
    found = diversity.pairwise_replicates(inputs.generated, None, inputs.blocks)
    return {"pairwise_distance": found}


def _pairwise_within(inputs: Inputs) -> Scored:
    labels = inputs.extras.labels
    assert labels is not None
    found = diversity.pairwise_replicates(inputs.generated, labels, inputs.blocks)
    return {"pairwise_within": found}


def _vendi_within(inputs: Inputs) -> Scored:
    labels = inputs.extras.labels
    assert labels is not None
    return {"vendi_within": diversity.vendi_within(inputs.generated, labels, inputs.blocks)}


def _lpips_within(inputs: Inputs) -> Scored:
    groups = inputs.extras.pair_distances
    assert groups is not None
    return {"lpips_within": diversity.mean_within(groups, inputs.blocks)}


_BOTH = ("generated", "reference")
_TEACHER = ("teacher",)
_MODES = ("modes",)

METRICS: tuple[Metric, ...] = (
    Metric(
        "fd", "Fréchet distance", False, "quality", _BOTH, _fd, from_moments=True, version=2,
        least=0,
        meaning="Fréchet distance between Gaussians fitted to the features of both sets. Biased "
        "upwards by an amount that falls with n, so only equal n compare.",
    ),
    Metric(
        "sfd", "Fréchet distance, spatial features", False, "quality", ("spatial",), _sfd,
        from_moments=True, version=2, least=0,
        meaning="FD on spatial features, which see layout.",
    ),
    Metric(
        "fd_infinity", "Fréchet distance, n to infinity", False, "quality", _BOTH, _fd_infinity,
        from_moments=True, version=2,
        meaning="FD extrapolated to infinitely many samples, over ten nested subsets of the "
        "samples.",
    ),
    Metric(
        "kid", "KID", False, "quality", _BOTH, _kid, spread="kid_std", estimator=SUBSETS,
        version=2,
        meaning="Squared maximum mean discrepancy, cubic kernel, over subsets.",
    ),
    Metric(
        "kid_std", "KID, spread over subsets", None, "other", _BOTH, _kid, estimator=SUBSETS,
        version=2, least=0,
        meaning="How far KID varies over its subsets; no error of its mean.",
    ),
    Metric(
        "kid_exact", "KID, all pairs", False, "quality", _BOTH, _kid_exact,
        passes="kernel:cubic", estimator=PAIRS, version=2,
        meaning="KID over all pairs rather than subsets.",
    ),
    Metric(
        "cmmd", "CMMD", False, "quality", _BOTH, _unit_mmd("cmmd"), passes="kernel:directions",
        estimator="V-statistic", extractor="clip", least=0,
        meaning="Maximum mean discrepancy of CLIP's unit embeddings, Gaussian kernel of width 10.",
    ),
    Metric(
        "mmd_rbf_unit", "MMD of unit features", False, "quality", _BOTH,
        _unit_mmd("mmd_rbf_unit"), passes="kernel:directions", estimator="V-statistic", least=0,
        meaning="CMMD's formula on features other than CLIP's: its kernel is nearly linear there.",
    ),
    Metric(
        "mind", "MIND", False, "quality", _BOTH, _mind, least=0,
        meaning="Sliced distance between the two feature clouds.",
    ),
    Metric(
        "is", "Inception score", True, "quality", ("logits",), _inception, spread="is_std",
        least=1,
        meaning="Inception score: confident and varied class predictions.",
    ),
    Metric(
        "is_std", "Inception score, spread over splits", None, "other", ("logits",), _inception,
        least=0,
        meaning="How far the inception score varies over its splits; no error of its mean.",
    ),
    Metric(
        "precision", "Precision", True, "quality", _BOTH, _precision_recall, passes="balls",
        least=0, most=1,
        meaning="Share of the samples inside the reference's neighbourhoods.",
    ),
    Metric(
        "recall", "Recall", True, "diversity", _BOTH, _precision_recall, passes="recall",
        least=0, most=1,
        meaning="Share of the reference inside the samples' neighbourhoods: diversity.",
    ),
    Metric(
        "matched_recall", "Recall at precision 1", True, "diversity", _BOTH, _matched_recall,
        passes="balls", least=0, most=1, optional=True,
        meaning="Recall of the samples inside the reference's neighbourhoods alone, in random "
        "groups of a tenth of all samples, averaged: precision and number are the same for "
        "everybody, so that neither bad samples nor leaving out good ones raises it. Compare it "
        "with itself, never with recall; none where less than a tenth are inside.",
    ),
    Metric(
        "density", "Density", True, "quality", _BOTH, _balls, passes="balls", least=0,
        meaning="Precision that counts overlapping neighbourhoods.",
    ),
    Metric(
        "coverage", "Coverage", True, "diversity", _BOTH, _balls, passes="balls", least=0,
        most=1,
        meaning="Share of reference neighbourhoods that hold at least one sample.",
    ),
    Metric(
        "authpct", "AuthPct", None, "other", _BOTH, _authpct, passes="authentic", least=0,
        most=100,
        meaning="Percentage of samples that are not near-copies of one reference image: it tells "
        "of memorising only where the reference is the training set.",
    ),
    Metric(
        "vendi", "Vendi score", True, "diversity", ("generated",), _vendi, version=2,
        least=1,
        meaning="Effective number of distinct samples; it looks at no reference.",
    ),
    Metric(
        "pairwise_distance", "Pairwise cosine distance", True, "diversity", ("generated",),
        _pairwise, estimator="mean over pairs", least=0, most=2,
        meaning="Mean cosine distance of the features of any two samples.",
    ),
    Metric(
        "energy_distance", "Energy distance", False, "quality", _BOTH, _energy,
        passes="kernel:distance", estimator=PAIRS, version=2,
        meaning="Energy distance to the reference samples.",
    ),
    Metric(
        "sliced_wasserstein", "Sliced Wasserstein", False, "quality", _BOTH, _sliced, least=0,
        meaning="Root mean square one-dimensional transport distance over directions.",
    ),
    Metric(
        "pairwise_within", "Pairwise cosine distance within a class or prompt", True, "diversity",
        ("generated", "labels"), _pairwise_within, estimator="mean over pairs", least=0, most=2,
        meaning="Mean cosine distance between samples of one class or prompt.",
    ),
    Metric(
        "vendi_within", "Vendi score within a class or prompt", True, "diversity",
        ("generated", "labels"), _vendi_within, least=1,
        meaning="Vendi score within each class or prompt, averaged over them.",
    ),
    Metric(
        "lpips_within", "Pairwise LPIPS within a class or prompt", True, "diversity", ("lpips",),
        _lpips_within, least=0,
        meaning="Mean LPIPS between samples of one class or prompt.",
    ),
    *BY_SAMPLE,
    Metric(
        "flow_map_error", "Flow map error", False, "agreement", _TEACHER, least=0,
        meaning="Mean square of the difference to the teacher's sample from the same noise, in the "
        "model's own space: points, pixels in −1..1, or latents.",
    ),
    Metric(
        "class_accuracy", "Class accuracy", True, "quality", ("logits",), least=0, most=1,
        meaning="Share of samples that an independent classifier gives their label.",
    ),
    Metric(
        "modes_covered", "Modes covered", True, "diversity", _MODES, least=0,
        meaning="Modes that get at least a quarter of their expected samples.",
    ),
    Metric(
        "mode_mass", "Mass of covered modes", True, "diversity", _MODES, least=0, most=1,
        meaning="Weight of the covered modes.",
    ),
    Metric(
        "mode_share", "Share of samples near a mode", True, "quality", _MODES, least=0, most=1,
        meaning="Share of samples near a mode.",
    ),
    Metric(
        "mode_tv", "Mode shares, total variation", False, "diversity", _MODES, least=0, most=1,
        meaning="Total variation between expected and observed mode shares.",
    ),
    Metric(
        "rare_mode_share", "Rare modes, share over the true one", None, "other", _MODES, least=0,
        meaning="Share of modes of less than half of the mean weight, of samples near a mode, over "
        "the true share: 1 is right, below it they are lost.",
    ),
)  # fmt: skip
