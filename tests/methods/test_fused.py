"""The fused rollout in Triton's interpreter (see conftest.py) against PyTorch's in float64."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from piflow_methods.piflow import fused
from piflow_methods.piflow.policies import DXPolicy, GMPolicy, rollout

INPUTS = ("means", "logweights", "logstds")


def policy(k, c, spatial=(3, 5), shift=1.0, dtype=torch.float32, dropped=False, seed=0, rows=3):
    """A mixture whose components compete, as trained heads' do, and a start after the source."""
    g = torch.Generator().manual_seed(seed)
    t_src = torch.tensor([1.0, 0.9, 0.6])[:rows]
    values = {
        "means": torch.randn(rows, k, c, *spatial, generator=g),
        "logstds": 0.3 * torch.randn(rows, 1, 1, *(1,) * len(spatial), generator=g) - 1.0,
        "logweights": torch.randn(rows, k, 1, *spatial, generator=g).log_softmax(1),
    }
    values = {name: v.to(dtype) for name, v in values.items()}
    x_src = torch.randn(rows, c, *spatial, generator=g)
    made = GMPolicy(**values, x_src=x_src, t_src=t_src, shift=shift, eps=1e-4)
    if dropped:
        made = made.with_dropout(torch.rand(rows, k, generator=g) < 0.5)
    x = x_src + 0.1 * torch.randn(x_src.shape, generator=g)
    raw_from = t_src / (shift + (1 - shift) * t_src)
    raw_to = raw_from * torch.tensor([0.0, 0.5, 0.97])[:rows]
    return made, x, raw_from, raw_to


def float64(made):
    """The same policy in float64, on the same (rounded) inputs."""
    parts = {n: getattr(made, n).double() for n in (*INPUTS, "x_src", "t_src")}
    return GMPolicy(**parts, shift=made.shift, eps=made.eps)


def leaves(made):
    """The policy with leaf tensors that take gradients."""
    found = {n: getattr(made, n).detach().clone().requires_grad_() for n in INPUTS}
    return GMPolicy(
        **found, x_src=made.x_src, t_src=made.t_src, shift=made.shift, eps=made.eps
    ), found


def compare(case, substeps=24, values=1e-5, gradients=1e-4):
    made, x, raw_from, raw_to = case
    ours, mine = leaves(made)
    theirs, exact = leaves(float64(made))
    start, begin = x.clone().requires_grad_(), x.double().requires_grad_()
    end = ours.rollout(start, raw_from, raw_to, substeps, use_fused=True)
    expected = theirs.rollout(begin, raw_from.double(), raw_to.double(), substeps, use_fused=False)
    error = (end - expected).abs() / (1 + expected.abs())
    assert error.max() <= values
    weights = torch.randn(end.shape, generator=torch.Generator().manual_seed(1))
    # The one logstd of a sample sums over its pixels, which cancel: its scale is kept.
    weights /= max(1.0, x[0, 0].numel() / 15) ** 0.5
    (end * weights).sum().backward()
    (expected * weights).sum().backward()
    for name in INPUTS:
        a, b = mine[name].grad, exact[name].grad
        assert a.dtype == mine[name].dtype and torch.isfinite(a).all(), name
        assert ((a - b).abs() / (1 + b.abs())).max() <= gradients, name
    assert ((start.grad - begin.grad).abs() / (1 + begin.grad.abs())).max() <= gradients


@pytest.mark.parametrize("k", [1, 8, 32])
@pytest.mark.parametrize("c", [1, 4, 16])
def test_values_and_gradients_with_uneven_substeps(k, c):
    compare(policy(k, c))


@pytest.mark.parametrize("k", [8, 32])
def test_dropped_components_have_no_part_and_no_gradient(k):
    case = policy(k, 4, dropped=True)
    assert torch.isinf(case[0].logweights).any()
    compare(case)
    ours, mine = leaves(case[0])
    ours.rollout(*case[1:], 24, use_fused=True).sum().backward()
    gone = torch.isinf(case[0].logweights)
    assert (mine["logweights"].grad[gone] == 0).all()
    assert (mine["means"].grad[gone.expand_as(mine["means"].grad)] == 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"k": 5, "c": 3},  # Neither is a power of two.
        {"k": 8, "c": 4, "shift": 3.2},
        {"k": 8, "c": 4, "spatial": (7,)},
        {"k": 4, "c": 2, "spatial": (2, 3, 2)},
        {"k": 8, "c": 4, "spatial": (16, 40), "rows": 1},  # More pixels than a program takes.
    ],
)
def test_any_shape_and_shift(change):
    compare(policy(**change), substeps=12)


def test_temperature_is_in_the_inputs():
    made, *rest = policy(8, 4)
    compare((made.with_temperature(0.3), *rest))


def test_half_precision_inputs_are_read_as_they_are():
    made, *rest = policy(8, 4, dtype=torch.bfloat16)
    compare((made, *rest), gradients=2e-2)  # Gradients are rounded to the inputs' dtype.


def test_strided_inputs():
    made, x, *times = policy(8, 4)
    turned = GMPolicy(
        made.means.transpose(-1, -2).contiguous().transpose(-1, -2),
        made.logstds,
        made.logweights.transpose(0, 1).contiguous().transpose(0, 1),
        made.x_src,
        made.t_src,
        eps=made.eps,
    )
    compare((turned, x.transpose(-1, -2).contiguous().transpose(-1, -2), *times))


def test_the_posterior_of_a_mixture_is_exact():
    """Spread far below its components' distance: the weights saturate and stay finite."""
    made, x, raw_from, raw_to = policy(8, 4)
    sharp = GMPolicy(
        5 * made.means, made.logstds - 4, made.logweights, made.x_src, made.t_src, eps=1e-4
    )
    compare((sharp, x, raw_from, raw_to), values=1e-4, gradients=1e-2)


def test_without_gradients_no_path_is_kept(monkeypatch):
    made, *rest = policy(8, 4)
    kept = []
    original = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **o: kept.append(a[0]) or original(*a, **o))
    with torch.no_grad():
        made.rollout(*rest, 24, use_fused=True)
    assert (1,) in kept and all(len(shape) < 4 for shape in kept)


def test_the_choice_is_by_device_and_dtype():
    made, x, *_ = policy(8, 4)
    assert not fused.available(made, x), "no fused rollout on a CPU"
    assert not fused.available(float64(made), x.double())


def test_policies_need_no_triton():
    code = (
        "import sys; sys.modules['triton'] = None; import piflow_methods.piflow.policies as p;"
        "assert 'piflow_methods.piflow.kernels' not in sys.modules; print('fine')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "fine", result.stderr


COMPILE = """
import warnings; warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from piflow_methods.piflow import kernels

floats = "x_src x out path table facts grad_out grad_u grad_logweights grad_x grad_variance".split()
types = {"u": "*bf16", "logweights": "*bf16", "counts": "*i32", "eps": "fp32"}
types |= {name: "*fp32" for name in floats} | {name: "i32" for name in "KCPS"}
fixed = {"KB": 32, "CB": 4, "PB": 32, "KEEP": True}
for kernel in (kernels.forward, kernels.backward):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in fixed else types[n] for n in names}
    values = {(i,): fixed[n] for i, n in enumerate(names) if n in fixed}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert len(made.asm["cubin"]) > 1000
    print(kernel.__name__, "fits")
"""


def test_both_kernels_compile_for_an_h100():
    """The machine code itself, which needs no GPU to be made."""
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    if "GPUTarget" in result.stderr or "ptxas" in result.stderr:
        pytest.skip(f"this Triton brings no compiler for NVIDIA: {result.stderr[-200:]}")
    assert result.stdout.split("\n")[:2] == ["forward fits", "backward fits"], result.stderr


# ------------------------------------------------------------------ the paths in PyTorch


def test_reference_gradients_are_those_of_finite_differences():
    made, x, raw_from, raw_to = policy(3, 2, spatial=(2,))
    exact = float64(made)

    def end(means, logweights, logstds, start):
        mixture = GMPolicy(means, logstds, logweights, exact.x_src, exact.t_src, eps=1e-4)
        return mixture.rollout(start, raw_from.double(), raw_to.double(), 6)

    inputs = [exact.means, exact.logweights, exact.logstds, x.double()]
    assert torch.autograd.gradcheck(end, [i.clone().requires_grad_() for i in inputs])


@pytest.mark.parametrize("mode", ["grid", "polynomial", "coefficients"])
@pytest.mark.parametrize("n", [1, 6])
def test_dx_rollouts_in_one_sum_are_the_substeps_one_by_one(mode, n):
    g = torch.Generator().manual_seed(0)
    output = torch.randn(3, n, 4, 3, 5, generator=g).double()
    x = torch.randn(3, 4, 3, 5, generator=g).double()
    t_src = torch.tensor([1.0, 0.8, 0.5]).double()
    for shift in (1.0, 3.2):
        raw_from = t_src / (shift + (1 - shift) * t_src)
        raw_to = raw_from * torch.tensor([0.0, 0.4, 0.95]).double()
        made = DXPolicy(output, x, t_src, 1 / 3.5, shift, mode)
        one = made.rollout(x, raw_from, raw_to, 40)
        steps = rollout(made.velocity, x, raw_from, raw_to, 40, shift)
        assert (one - steps).abs().max() < 1e-10


def test_a_second_derivative_is_refused():
    made, x, raw_from, raw_to = policy(4, 2)
    made, found = leaves(made)
    end = made.rollout(x, raw_from, raw_to, 4, use_fused=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(end.sum(), found["means"], create_graph=True)
