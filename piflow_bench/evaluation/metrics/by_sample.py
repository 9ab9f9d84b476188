"""The metrics that are a mean over samples: each beside the teacher's, or beside its prompt."""

from __future__ import annotations

from collections.abc import Callable

from piflow_bench.evaluation.inputs import Inputs
from piflow_bench.evaluation.metrics.clip_score import on_scale
from piflow_bench.evaluation.metrics.metric import Metric, Scored
from piflow_bench.evaluation.uncertainty import mean_with_replicates


def _mean_of(name: str) -> Callable[[Inputs], Scored]:
    """A metric that is the mean of per-sample scores."""

    def compute(inputs: Inputs) -> Scored:
        mean = mean_with_replicates(inputs.extras.scores[name], inputs.blocks)
        return {name: (mean.value, mean.replicates)}

    return compute


def _clip_score(inputs: Inputs) -> Scored:
    """The mean of cosines on the scale that is asked for."""
    scores = on_scale(inputs.extras.scores["clip_score"], inputs.settings.clip_scale)
    mean = mean_with_replicates(scores, inputs.blocks)
    return {"clip_score": (mean.value, mean.replicates)}


_TEACHER = ("teacher",)

BY_SAMPLE: tuple[Metric, ...] = (
    Metric(
        "teacher_mse", "Squared error to the teacher", False, "agreement", _TEACHER,
        _mean_of("teacher_mse"), estimator="mean", least=0, version=2,
        meaning="Mean squared error to the teacher's picture from the same noise, pixels in 0..1. "
        "Alignment rather than quality: a stochastic student may be good and far away.",
    ),
    Metric(
        "teacher_psnr", "PSNR to the teacher, dB", True, "agreement", _TEACHER,
        _mean_of("teacher_psnr"), estimator="mean",
        meaning="Peak signal-to-noise ratio to the teacher, in dB.",
    ),
    Metric(
        "teacher_lpips", "LPIPS to the teacher", False, "agreement", _TEACHER,
        _mean_of("teacher_lpips"), estimator="mean", least=0,
        meaning="Perceptual distance to the teacher's sample.",
    ),
    Metric(
        "teacher_cosine", "Feature cosine to the teacher", True, "agreement", _TEACHER,
        _mean_of("teacher_cosine"), estimator="mean", least=-1, most=1,
        meaning="Cosine of the features of both samples.",
    ),
    Metric(
        "clip_score", "CLIP score", True, "quality", ("prompts",), _clip_score, estimator="mean",
        version=2,
        meaning="How well images fit their prompts, by CLIP's cosine.",
    ),
    Metric(
        "hpsv2", "HPSv2.1", True, "quality", ("prompts",), _mean_of("hpsv2"), estimator="mean",
        meaning="What people would choose, by a CLIP trained on choices; as in its package.",
    ),
    Metric(
        "hpsv2_quickgelu", "HPSv2.1 with QuickGELU", True, "quality", ("prompts",),
        _mean_of("hpsv2_quickgelu"), estimator="mean",
        meaning="HPSv2.1 as pi-Flow's evaluation has it: another scale than the package's.",
    ),
    Metric(
        "vqascore", "VQAScore", True, "quality", ("prompts",), _mean_of("vqascore"),
        estimator="mean", least=0, most=1,
        meaning="How likely CLIP-FlanT5 says that the image shows its prompt.",
    ),
)  # fmt: skip
"""They need no features: the scores of all samples are among the inputs."""
