"""The process and the prediction that a diffusers ``scheduler_config.json`` states.

Such a file also says how its pipeline samples (spacing of steps, clipping, the last step): of that
only the shift of a flow is taken. What would change the process and is not understood is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from piflow_bench.errors import UserError, nearest
from piflow_bench.teachers.schedules import VP, Flow, Schedule

VP_CLASSES = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
FLOW_CLASS = "FlowMatchEulerDiscreteScheduler"
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VP_ONLY = {
    "use_flow_sigmas": (False, "name FlowMatchEulerDiscreteScheduler for a network of a flow"),
    "timestep_type": ("discrete", "only discrete is"),
}
FLOW_ONLY = {
    "use_dynamic_shifting": (False, "set it to false, and shift to that of the pictures' size"),
    "invert_sigmas": (False, "its network's time is reversed: name the flow schedule with reverse"),
}
"""Keys that change the process: the one value that is understood, also the default, and the fix."""


def from_scheduler_config(config: Mapping[str, Any]) -> tuple[Schedule, str]:
    """The schedule and the name of the prediction; keys that are missing are diffusers' defaults.

    A class, a beta schedule, a prediction or a number that is not understood is a
    :class:`UserError` that names its key and value.
    """
    kind = config.get("_class_name")
    if kind == FLOW_CLASS:
        _only(config, FLOW_ONLY)
        units = _number(config, "num_train_timesteps", 1000)
        return Flow(units, shift=_number(config, "shift", 1.0)), "velocity"
    if kind not in VP_CLASSES:
        _refuse("_class_name", kind, nearest(str(kind), [*VP_CLASSES, FLOW_CLASS]))
    _only(config, VP_ONLY)
    prediction = _choice(config, "prediction_type", "epsilon", PREDICTIONS)
    zero_snr = config.get("rescale_betas_zero_snr", False)
    if not isinstance(zero_snr, bool):
        _refuse("rescale_betas_zero_snr", zero_snr, "true or false")
    given = config.get("trained_betas")
    if given is not None:
        if not isinstance(given, list | tuple) or not all(_is_number(b) for b in given):
            _refuse("trained_betas", given, "a list of numbers")
        betas = tuple(float(beta) for beta in given)
        return VP("given", steps=len(betas), given=betas, zero_snr=zero_snr), prediction
    schedule = VP(
        _choice(config, "beta_schedule", "linear", BETAS),
        _number(config, "beta_start", 1e-4),
        _number(config, "beta_end", 0.02),
        _whole(config, "num_train_timesteps", 1000),
        zero_snr=zero_snr,
    )
    return schedule, prediction


def _refuse(key: str, value: Any, understood: str) -> NoReturn:
    raise UserError(f"scheduler_config.json: {key}={value} is not understood; {understood}")


def _only(config: Mapping[str, Any], understood: Mapping[str, tuple[Any, str]]) -> None:
    for key, (value, fix) in understood.items():
        if config.get(key, value) != value:
            _refuse(key, config[key], fix)


def _choice(config: Mapping[str, Any], key: str, default: str, names: Mapping[str, str]) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in names:
        _refuse(key, value, nearest(str(value), list(names)))
    return names[value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not _is_number(value):
        _refuse(key, value, "a number")
    return float(value)


def _whole(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(key, value, "a whole number")
    return value
