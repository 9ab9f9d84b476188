"""Forward-mode derivatives at the price of two forward passes.

Torch's own forward mode multiplies every layer's weights twice, the second time by a tangent that
is zero: three products a layer and no less time. Here a product whose one factor has no tangent
costs one more product. Everything else, layers of other kinds included, follows torch's rules.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def jvp(
    function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Value and directional derivative of ``function(*primals)`` along ``tangents``, no gradient.

    The flash and efficient attention kernels have no forward-mode rule, so attention runs in the
    math kernel.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        warnings.catch_warnings(),
        _Products(),
    ):
        # Of torch's own rules for forward mode, which it scripts at their first use.
        warnings.filterwarnings("ignore", "`torch.jit.script`", FutureWarning)
        value, derivative = torch.func.jvp(function, tuple(primals), tuple(tangents))[:2]
    return value.detach(), derivative.detach()


class _Product(torch.autograd.Function):
    """``product(a, b)``, linear in either factor; a factor without a tangent costs nothing."""

    generate_vmap_rule = True

    @staticmethod
    def forward(product: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
        return product(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.product, *factors = inputs
        ctx.save_for_forward(*factors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, _: None, da: Tensor | None, db: Tensor | None) -> Tensor:
        a, b = ctx.saved_tensors
        if db is None:
            return ctx.product(da, b)
        if da is None:
            return ctx.product(a, db)
        return ctx.product(da, b) + ctx.product(a, db)


def _layer(function: Callable[..., Tensor], spatial: int) -> Callable[..., Tensor]:
    """A linear layer with weights and bias, over ``spatial`` dimensions behind the channels."""

    def call(
        input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any
    ) -> Tensor:
        out = _Product.apply(lambda x, w: function(x, w, None, *rest, **options), input, weight)
        return out if bias is None else out + bias.to(out.dtype).view(-1, *[1] * spatial)

    return call


def _matmul(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(a: Tensor, b: Tensor | None = None, **named: Tensor) -> Tensor:
        return function(a, **named) if b is None else _Product.apply(function, a, b)

    return call


_RULES: dict[Any, Callable[..., Tensor]] = {
    functional.linear: _layer(functional.linear, 0),
    functional.conv1d: _layer(functional.conv1d, 1),
    functional.conv2d: _layer(functional.conv2d, 2),
    functional.conv3d: _layer(functional.conv3d, 3),
    functional.conv_transpose1d: _layer(functional.conv_transpose1d, 1),
    functional.conv_transpose2d: _layer(functional.conv_transpose2d, 2),
    functional.conv_transpose3d: _layer(functional.conv_transpose3d, 3),
    **{
        f: _matmul(f)
        for f in (
            torch.matmul, torch.mm, torch.bmm,
            torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.bmm, torch.Tensor.__matmul__,
        )
    },
}  # fmt: skip


class _Products(TorchFunctionMode):
    """Inside it the products of a forward-mode derivative follow :class:`_Product`."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        rule = _RULES.get(function)
        # A network that takes gradients of its own needs torch's rules; so does ``out=``.
        if rule is None or torch.is_grad_enabled() or "out" in (kwargs or {}):
            return function(*args, **(kwargs or {}))
        return rule(*args, **(kwargs or {}))
