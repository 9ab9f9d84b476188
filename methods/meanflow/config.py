"""Flow maps: MeanFlow (arXiv 2505.13447), and what differs from it by a setting.

The average velocity from one time to another is trained, from scratch or distilled from the
teacher. MeanFlow's settings are the defaults; of others the equations are in ``parts.flow_maps``:

``ratio_start``, ``ratio_end``: the target's first step is a share of the interval, which shrinks
    while it is trained (alpha-Flow, arXiv 2510.20771; SoFlow, arXiv 2512.15657).
``residual``: errors are the map's residual, which is larger by 1 / ratio (SoFlow).
``jvp=finite-difference``: its derivative is a central difference (TiM, arXiv 2509.04394).
``identity=end``: the interval's other end is moved (LSD, arXiv 2505.18825; AYF's second loss).
``tangent_floor``: errors have a bounded length (AYF, arXiv 2506.14603).
``whole_share``, ``row_weight``: intervals down to data, and weights by times (TiM; AnyFlow, arXiv
    2605.13724).
"""

from __future__ import annotations

from dataclasses import dataclass

from piflow_methods.parts.flow_maps import RATIO_LAWS, ROW_WEIGHTS, ratio_at

from piflow_bench.api import SCHEDULES, among, between, cite, log_between, setting

ALPHA_FLOW = (
    "arXiv:2510.20771",
    cite(
        "zhang2025alphaflow",
        "Zhang, Huijie and Siarohin, Aliaksandr and Menapace, Willi and Vasilkovsky, Michael and "
        "Tulyakov, Sergey and Qu, Qing and Skorokhodov, Ivan",
        "AlphaFlow: Understanding and Improving MeanFlow Models",
        "2510.20771",
    ),
)
SOFLOW = (
    "arXiv:2512.15657",
    cite(
        "luo2025soflow",
        "Luo, Tianze and Yuan, Haotian and Liu, Zhuang",
        "SoFlow: Solution Flow Models for One-Step Generative Modeling",
        "2512.15657",
    ),
)
TIM = (
    "arXiv:2509.04394",
    cite(
        "wang2025tim",
        "Wang, Zidong and Zhang, Yiyuan and Yue, Xiaoyu and Yue, Xiangyu and Li, Yangguang and "
        "Ouyang, Wanli and Bai, Lei",
        "Transition Models: Rethinking the Generative Learning Objective",
        "2509.04394",
    ),
)
LSD = (
    "arXiv:2505.18825",
    cite(
        "boffi2025lsd",
        "Boffi, Nicholas M. and Albergo, Michael S. and Vanden-Eijnden, Eric",
        "How to Build a Consistency Model: Learning Flow Maps via Self-Distillation",
        "2505.18825",
    ),
)
AYF = (
    "arXiv:2506.14603",
    cite(
        "sabour2025ayf",
        "Sabour, Amirmojtaba and Fidler, Sanja and Kreis, Karsten",
        "Align Your Flow: Scaling Continuous-Time Flow Map Distillation",
        "2506.14603",
    ),
)
TIME_LAWS = ("logit-normal", "uniform")
JVP = ("exact", "finite-difference")


@dataclass(frozen=True)
class Config:
    """Settings of MeanFlow; defaults are the paper's for ImageNet."""

    distill: bool = True  # the teacher's guided velocity replaces the data velocity
    # of two draws t is the larger
    time_law: str = setting("logit-normal", choices=TIME_LAWS, search=among(*TIME_LAWS))
    time_mean: float = setting(-0.4)  # of the logit-normal law
    time_std: float = setting(1.0, above=0)
    # the second draw's own logit-normal law; None: as the first
    end_mean: float | None = setting(None, search=among(None, -4.0))
    end_std: float = setting(1.6, above=0)
    # rows with r = t, independently
    instant_share: float = setting(0.75, least=0, most=1, search=between(0.25, 0.75))
    whole_share: float = setting(0.0, least=0, most=1)  # rows with r = 0, of the others none
    # share of the interval that the target's first step takes; 0: a derivative is taken
    ratio_start: float = setting(0.0, least=0, most=1)
    ratio_end: float = setting(0.0, least=0, most=1)
    ratio_law: str = setting("sigmoid", choices=RATIO_LAWS)  # between them
    # part of the training in which it moves; below the floor a derivative is taken, near 1 none
    ratio_moves: tuple[float, float] = setting((0.5, 0.8333), least=0, most=1)
    ratio_floor: float = setting(0.005, least=0, below=0.5)
    ratio_power: float = setting(0.0, least=0)  # of the ratio, in the weight of intervals
    residual: bool = False  # errors of intervals are divided by the ratio
    target_clip: float | None = setting(None, above=0)  # of the targets of intervals
    row_weight: str = setting("none", choices=ROW_WEIGHTS)  # of rows, by their times
    # where the interval is moved for a derivative: its start at t, or its end at r
    identity: str = setting("start", choices=("start", "end"))
    # of the norm that divides errors of intervals (AYF); None: they are as they are
    tangent_floor: float | None = setting(None, above=0)
    # p of the adaptive loss weight
    power: float = setting(1.0, least=0, search=between(0.5, 1.0))
    weight_floor: float = setting(0.01, above=0)  # c of the adaptive loss weight, per sample
    jvp: str = setting("exact", choices=JVP, search=among(*JVP))
    # in t, along the target velocity; at most half the interval
    difference_step: float = setting(0.05, above=0, most=0.5)
    # of the products in dU/dt
    derivative_precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    tangent_warmup: int = setting(0, least=0)  # steps over which the derivative term is ramped up
    # from scratch: w (1 - kappa); None takes it from the teacher's w
    omega: float | None = setting(None)
    # from scratch: share of the class-conditional self-prediction
    kappa: float = setting(0.0, least=0, below=1)
    class_dropout: float = setting(0.1, least=0, most=1)  # from scratch
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.95, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if len(self.ratio_moves) != 2 or not self.ratio_moves[0] < self.ratio_moves[1]:
            raise ValueError(f"ratio_moves={list(self.ratio_moves)}: a share, and a later one")
        if self.ratio_law == "exponential" and not (self.ratio_start and self.ratio_end):
            raise ValueError("ratio_law=exponential: ratio_start and ratio_end are above 0")
        if self.instant_share + self.whole_share > 1:
            raise ValueError("instant_share and whole_share are at most 1 together")
        if self.identity == "end":
            unused = {
                "ratio_start": self.ratio_start or self.ratio_end,
                "target_clip": self.target_clip,
                "jvp": self.jvp != "exact",
            }
            if told := [name for name, given in unused.items() if given]:
                raise ValueError(
                    f"identity=end: its derivative is exact; leave out {', '.join(told)}"
                )

    def ratio(self, progress: float) -> float:
        """Share of the interval in the target's first step; 0: the derivative's limit."""
        ratio = ratio_at(
            progress, self.ratio_law, self.ratio_start, self.ratio_end, self.ratio_moves
        )
        if ratio < self.ratio_floor:
            return 0.0
        return 1.0 if ratio > 1 - self.ratio_floor else ratio

    @property
    def derivative(self) -> str:
        """How one is taken, in the words of facts."""
        if self.identity == "end":
            return "exact"
        return "none" if self.ratio(0.0) and self.ratio(1.0) else self.jvp.replace("-", " ")


@dataclass(frozen=True)
class Sampling:
    """Settings of the student's sampler."""

    shift: float = setting(1.0, above=0)  # time warp of the grid
