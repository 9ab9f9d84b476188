"""What is known of every metric: one place that tables, charts and tests read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """Facts about a metric.

    ``higher_is_better`` is None where neither direction is better in itself. ``needs`` names the
    inputs: ``generated`` and ``reference`` features, ``logits`` of the generated samples,
    ``teacher`` (its outputs for the same noise), ``modes`` of a known mixture.
    """

    name: str
    label: str
    higher_is_better: bool | None
    role: str
    """quality | diversity | agreement | other."""
    needs: tuple[str, ...]


_BOTH = ("generated", "reference")
_ONE = ("generated",)
_LOGITS = ("logits",)
_TEACHER = ("teacher",)
_MODES = ("modes",)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("fd", "Fréchet distance", False, "quality", _BOTH),
        Metric("sfd", "Fréchet distance, spatial features", False, "quality", ("spatial",)),
        Metric("fd_infinity", "Fréchet distance, n to infinity", False, "quality", _BOTH),
        Metric("kid", "KID", False, "quality", _BOTH),
        Metric("kid_std", "KID, spread over subsets", None, "other", _BOTH),
        Metric("kid_exact", "KID, all pairs", False, "quality", _BOTH),
        Metric("cmmd", "CMMD", False, "quality", _BOTH),
        Metric("mind", "MIND", False, "quality", _BOTH),
        Metric("is", "Inception score", True, "quality", _LOGITS),
        Metric("is_std", "Inception score, spread over splits", None, "other", _LOGITS),
        Metric("precision", "Precision", True, "quality", _BOTH),
        Metric("recall", "Recall", True, "diversity", _BOTH),
        Metric("density", "Density", True, "quality", _BOTH),
        Metric("coverage", "Coverage", True, "diversity", _BOTH),
        Metric("authpct", "AuthPct", None, "other", _BOTH),
        Metric("vendi", "Vendi score", True, "diversity", _ONE),
        Metric("pairwise_distance", "Pairwise cosine distance", True, "diversity", _ONE),
        Metric("energy_distance", "Energy distance", False, "quality", _BOTH),
        Metric("sliced_wasserstein", "Sliced Wasserstein", False, "quality", _BOTH),
        Metric("teacher_mse", "Squared error to the teacher", False, "agreement", _TEACHER),
        Metric("flow_map_error", "Flow map error", False, "agreement", _TEACHER),
        Metric("class_accuracy", "Class accuracy", True, "quality", _LOGITS),
        Metric("modes_covered", "Modes covered", True, "diversity", _MODES),
        Metric("mode_mass", "Mass of covered modes", True, "diversity", _MODES),
        Metric("mode_share", "Share of samples near a mode", True, "quality", _MODES),
        Metric("mode_tv", "Mode shares, total variation", False, "diversity", _MODES),
    )
}
