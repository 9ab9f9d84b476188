"""Schedules against the products that define them, and against diffusers' own tables."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from piflow_bench.errors import UserError
from piflow_bench.teachers.scheduler_config import from_scheduler_config
from piflow_bench.teachers.schedules import EDM, VP, Flow

F64 = torch.float64
GIVEN = tuple(float(b) for b in np.linspace(0.01, 0.6, 12) ** 1.5)
SCHEDULES = {
    "flow": Flow(),
    "flow of 1000": Flow(1000.0),
    "sit": Flow(reverse=True),
    "sit of 1000": Flow(1000.0, reverse=True),
    "linear": VP(),
    "scaled linear": VP("scaled_linear", 0.00085, 0.012),
    "cosine": VP("cosine"),
    "given": VP("given", steps=len(GIVEN), given=GIVEN),
    "zero snr": VP("scaled_linear", 0.00085, 0.012, zero_snr=True),
    "edm": EDM(),
}
ALL = pytest.mark.parametrize("name", SCHEDULES)
DISCRETE = [name for name, schedule in SCHEDULES.items() if isinstance(schedule, VP)]


def defined(name):
    """alpha-bar by its definition, in numpy."""
    index = np.arange(1000)
    if name == "linear":
        betas = 1e-4 + (0.02 - 1e-4) * index / 999
    elif name in ("scaled linear", "zero snr"):
        betas = (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * index / 999) ** 2
    elif name == "given":
        betas = np.array(GIVEN)
    else:
        f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    bar = np.cumprod(1 - betas)
    if name == "zero snr":
        root = np.sqrt(bar)
        bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return bar


def alpha_bar(schedule, index):
    """alpha^2 of the flow time of an index, where alpha^2 + sigma^2 = 1."""
    t = schedule.t(torch.as_tensor(index, dtype=F64))
    return (1 - t) ** 2 / ((1 - t) ** 2 + t**2)


@pytest.mark.parametrize("name", DISCRETE)
def test_an_index_has_the_product_of_the_betas_up_to_its_own(name):
    expected = torch.from_numpy(defined(name))
    found = alpha_bar(SCHEDULES[name], np.arange(len(expected)))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_golden_ends():
    ends = {
        "linear": (0.9999, 4.0358e-5),
        "scaled linear": (0.99915, 4.6602e-3),
        "cosine": (0.99995871, 2.4287e-9),
        "zero snr": (0.99915, 0.0),
    }
    for name, expected in ends.items():
        found = alpha_bar(SCHEDULES[name], [0, 999]).tolist()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-20), name
        covered = [(1 - bar) ** 0.5 / (bar**0.5 + (1 - bar) ** 0.5) for bar in expected]
        found = [float(end) for end in SCHEDULES[name].covers()]
        assert found == pytest.approx(covered, rel=1e-4), name
    found = [float(end) for end in EDM().covers()]
    assert found == pytest.approx([0.002 / 1.002, 80 / 81], abs=1e-12)


@ALL
def test_times_return(name):
    schedule = SCHEDULES[name]
    low, high = schedule.covers()
    t = low + (high - low) * torch.linspace(0, 1, 4001, dtype=F64)
    time = schedule.time(t)
    assert (schedule.t(time) - t).abs().max() < 1e-12
    assert time.dtype == schedule.t(time.float()).dtype == F64
    steps = time.diff()
    assert (steps > 0).all() or (steps < 0).all()
    assert (schedule.time(schedule.t(time)) - time).abs().max() < 1e-8


@ALL
def test_times_beyond_are_the_nearest_covered(name):
    schedule = SCHEDULES[name]
    low, high = schedule.covers()
    beyond = torch.tensor([0.0, 1.0], dtype=F64)
    assert torch.equal(schedule.time(beyond), schedule.time(torch.stack([low, high])))
    far = torch.tensor([-1e4, 1e4], dtype=F64)
    expected = [high, low] if "sit" in name else [low, high]
    torch.testing.assert_close(schedule.t(far), torch.stack(expected), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", DISCRETE)
def test_whole_indices_are_exact_and_others_lie_on_the_line_between(name):
    schedule = SCHEDULES[name]
    index = torch.arange(schedule.steps - 1)
    whole, after = schedule.t(index), schedule.t(index + 1)
    assert torch.equal(whole, schedule.table()[:-1])
    torch.testing.assert_close(schedule.time(whole), index.double(), rtol=0, atol=1e-9)
    quarter = schedule.t(index + 0.25)
    torch.testing.assert_close(quarter, 0.75 * whole + 0.25 * after, rtol=0, atol=1e-15)


def test_times_of_flows_and_of_edm():
    t = torch.tensor([0.1, 0.5, 0.8], dtype=F64)
    torch.testing.assert_close(Flow(1000.0).time(t), 1000 * t)
    torch.testing.assert_close(Flow(reverse=True).time(t), 1 - t)
    torch.testing.assert_close(Flow(1000.0, reverse=True).time(t), 1000 * (1 - t))
    torch.testing.assert_close(Flow(shift=3.0).time(t), t)
    torch.testing.assert_close(EDM().time(t), (t / (1 - t)).log() / 4)


@ALL
def test_states_are_those_of_the_flow_times_the_scale(name):
    schedule = SCHEDULES[name]
    low, high = schedule.covers()
    t = (low + (high - low) * torch.linspace(0, 1, 50, dtype=F64)).clamp(max=1 - 1e-6)
    ratio = t / (1 - t)  # sigma / alpha
    if "flow" in name or "sit" in name:
        alpha = 1 / (1 + ratio)
    else:
        alpha = torch.ones_like(t) if name == "edm" else 1 / (1 + ratio**2).sqrt()
    torch.testing.assert_close(schedule.scale(t), alpha + ratio * alpha)


@ALL
def test_all_is_where_the_times_are(name):
    schedule = SCHEDULES[name]
    with FakeTensorMode():
        t = torch.rand(3, device="cuda")
        for found in (schedule.time(t), schedule.t(t), schedule.scale(t), *schedule.covers("cuda")):
            assert found.device.type == "cuda" and found.dtype == F64


@pytest.mark.parametrize(
    "bad",
    [
        lambda: VP("quadratic"),
        lambda: VP(steps=1),
        lambda: VP(last=1.0),
        lambda: VP(first=math.nan),
        lambda: VP("given", steps=3, given=(0.1, 0.2)),
        lambda: VP("given", steps=3, given=(0.1, 1.2, 0.3)),
        lambda: EDM(sigma_min=0.0),
        lambda: EDM(3.0, 2.0),
        lambda: Flow(units=0.0),
        lambda: Flow(shift=-1.0),
    ],
)
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(UserError):
        bad()


# ---------------------------------------------------------------------------- scheduler_config.json

STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
DIT = {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "beta_schedule": "linear"}


def test_configurations_of_known_models():
    found = from_scheduler_config(STABLE_DIFFUSION)
    assert found == (VP("scaled_linear", 0.00085, 0.012), "eps")
    assert from_scheduler_config(DIT) == (VP(), "eps")
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert from_scheduler_config(flow) == (Flow(1000.0, shift=3.0), "velocity")
    names = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
    for theirs, ours in names.items():
        assert from_scheduler_config(DIT | {"prediction_type": theirs})[1] == ours


CLASSES = ["DDPM", "DDIM", "PNDM", "EulerDiscrete", "DPMSolverMultistep"]
OPTIONS = {
    "defaults": {},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "short": {"num_train_timesteps": 250, "beta_end": 0.05},
    "given": {"trained_betas": list(GIVEN), "num_train_timesteps": len(GIVEN)},
    "zero snr": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [(k, o) for k in CLASSES for o in OPTIONS if (k, o) != ("PNDM", "zero snr")],
)
def test_tables_are_those_of_diffusers(kind, options):
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**OPTIONS[options])
    config = dict(scheduler.config) | {"_class_name": f"{kind}Scheduler"}
    schedule, prediction = from_scheduler_config(config)
    expected = scheduler.alphas_cumprod.double()
    found = alpha_bar(schedule, np.arange(len(expected)))
    assert (found - expected).abs().max() < 1e-6
    assert prediction == ("v" if options == "zero snr" else "eps")


def test_flow_times_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    config = dict(scheduler.config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    schedule, _ = from_scheduler_config(config)
    found = schedule.time(scheduler.sigmas)
    torch.testing.assert_close(found, scheduler.timesteps.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": "EDMEulerScheduler"},
        {"_class_name": None},
        {"beta_schedule": "sigmoid"},
        {"beta_schedule": ["linear"]},
        {"prediction_type": "flow_prediction"},
        {"num_train_timesteps": 1000.5},
        {"beta_start": "small"},
        {"trained_betas": "betas.npy"},
        {"rescale_betas_zero_snr": "yes"},
        {"use_flow_sigmas": True},
        {"timestep_type": "continuous"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": None},
    ],
    ids=lambda change: list(change)[-1] + " " + str(list(change.values())[-1]),
)
def test_what_is_not_understood_is_refused_by_key_and_value(change):
    with pytest.raises(UserError) as refused:
        from_scheduler_config(DIT | change)
    key, value = list(change.items())[-1]
    assert f"{key}={value}" in str(refused.value) and "\n" not in str(refused.value)
