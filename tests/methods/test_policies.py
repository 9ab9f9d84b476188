"""Policies against the official implementation's numbers, and GM exactness on mixtures."""

import json
from pathlib import Path

import pytest
import torch
from piflow_methods.piflow.arc import ArcPolicy
from piflow_methods.piflow.policies import DXPolicy, GMPolicy, average_velocity
from safetensors.torch import load_file

from piflow_bench import flow

DATA = Path(__file__).parent.parent / "data"
CASES = json.loads((DATA / "policies.json").read_text())


@pytest.fixture(scope="module")
def tensors():
    return load_file(DATA / "policies.safetensors")


def policy_of(case, get):
    t_src = get("sigma_src").reshape(-1)
    if case["policy"] == "gm":
        policy = GMPolicy(
            get("means"),
            get("logstds"),
            get("logweights"),
            get("x_src"),
            t_src,
            case["shift"],
            case["eps"],
        )
        return policy.with_temperature(case.get("temperature", 1.0))
    return DXPolicy(
        get("output"),
        get("x_src"),
        t_src,
        case["segment"],
        case["shift"],
        case["mode"],
        case["eps"],
    )


def close(actual, expected, tolerance=1e-4):
    assert ((actual - expected).abs() <= tolerance * (1 + expected.abs())).all()


@pytest.mark.parametrize("index", range(len(CASES)))
def test_policy_equals_the_official_one(tensors, index):
    case = CASES[index]

    def get(name):
        return tensors[f"case{index}.{name}"]

    policy = policy_of(case, get)
    raw_src, raw_end = torch.tensor(case["raw_src"]), torch.tensor(case["raw_end"])
    close(policy.velocity(get("x_src"), policy.t_src), get("u_src"))
    close(policy.velocity(get("x_mid"), get("sigma_mid").reshape(-1)), get("u_mid"))
    close(policy.rollout(get("x_src"), raw_src, raw_end, case["substeps"]), get("x_end"))
    close(flow.warp(raw_end, case["shift"]), get("sigma_end").reshape(-1), 1e-6)
    average = average_velocity(policy, get("x_src"), raw_src, raw_end, case["substeps"])
    close(average, get("average_u"))


def a_policy(kind):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(2, *shape, generator=g)  # noqa: E731
    x, t = draw(3, 4, 4), torch.tensor([1.0, 0.8])
    if kind == "gm":
        means = draw(5, 3, 4, 4).requires_grad_()
        weights = draw(5, 1, 4, 4).log_softmax(1)
        return GMPolicy(means, draw(1, 1, 1, 1) - 1, weights, x, t), means
    output = draw(5, 3, 4, 4).requires_grad_()
    if kind == "arc":
        return ArcPolicy(output, draw(4, 1, 4, 4), draw(5, 1, 4, 4).log_softmax(1), x, t), output
    return DXPolicy(output, x, t, mode=kind), output


KINDS = ("gm", "arc", "grid", "polynomial", "coefficients")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", ["velocity", "rollout"])
def test_autocast_changes_nothing(kind, use):
    policy, _ = a_policy(kind)

    def used():
        if use == "velocity":
            return policy.velocity(policy.x_src, 0.7 * policy.t_src)
        return policy.rollout(policy.x_src, policy.t_src, 0.25 * policy.t_src, 16)

    expected = used()
    policy, _ = a_policy(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(used(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_use_without_gradients_cuts_none(kind):
    policy, trained = a_policy(kind)
    with torch.no_grad():
        policy.velocity(policy.x_src, 0.7 * policy.t_src)
    policy.velocity(policy.x_src, 0.7 * policy.t_src).square().sum().backward()
    found = trained.grad
    policy, trained = a_policy(kind)
    policy.velocity(policy.x_src, 0.7 * policy.t_src).square().sum().backward()
    assert found is not None and torch.equal(found, trained.grad) and found.abs().max() > 0
