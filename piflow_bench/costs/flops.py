"""What a step costs, measured at the networks' handles.

A `Handle` wraps a network under its role ("teacher", "student", ...). It counts the rows that pass
and measures, once per role and mode, the FLOPs of a row with PyTorch's FLOP counter. Backward
passes are measured the same way, once per kind of update, and include any recomputation. Nothing is
declared by a method.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Stopwatch:
    """Seconds between beginnings and ends; on a GPU by its own clock, without waiting for it."""

    device: str = "cpu"
    _seconds: float = 0.0
    _pairs: list[tuple[Any, Any]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what is inside."""
        if not self.device.startswith("cuda"):
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started
            return
        pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        pair[0].record()
        yield
        pair[1].record()
        self._pairs.append(pair)

    def seconds(self) -> float:
        """The sum so far."""
        if self._pairs:
            torch.cuda.synchronize()
            self._seconds += sum(a.elapsed_time(b) for a, b in self._pairs) / 1000
            self._pairs.clear()
        return self._seconds


@dataclass
class Meter:
    """Running totals: rows by (role, mode), FLOPs of everything, and the measured unit costs."""

    rows: Counter[str] = field(default_factory=Counter)
    flops: float = 0.0
    unit: dict[str, float] = field(default_factory=dict)
    eager: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Inside it nothing runs compiled, whose operations could not be counted."""
    clock: Stopwatch | None = None
    """Times the networks' calls, where that is wanted."""
    _pending: Counter[str] = field(default_factory=Counter)
    _paused: bool = False

    def backward(self, loss: Tensor, update: str) -> None:
        """``loss.backward()``, its FLOPs added."""
        kind = ",".join(f"{role}x{rows}" for role, rows in sorted(self._pending.items()))
        key = f"backward {update}: {kind}"
        self._pending.clear()
        self._paused = True  # Recomputation calls networks again; its FLOPs are the backward's.
        try:
            if key in self.unit:
                loss.backward()
            else:
                with self.eager(), count_all_flops() as counter:
                    loss.backward()
                self.unit[key] = float(counter.get_total_flops())
        finally:
            self._paused = False
        self.flops += self.unit[key]


def _mode() -> str:
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "jvp"
    return "grad" if torch.is_grad_enabled() else "forward"


class Handle:
    """A network under its role; calling it calls the network and counts.

    A tensor that it returns has x's precision under autocast too, so that methods' own arithmetic
    never mixes precisions. A head of several outputs keeps what it chose.

    Args:
        role: what the costs are booked under.
        function: ``function(x, ...)`` with the batch as x's first dimension; usually a module.
        meter: where the costs go.
        flops_per_row: fixed cost of a row, for closed-form fields that have no matrix products.
    """

    def __init__(
        self,
        role: str,
        function: Callable[..., Any],
        meter: Meter,
        flops_per_row: float | None = None,
    ) -> None:
        self.role, self.function, self.meter = role, function, meter
        self.flops_per_row = flops_per_row

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """``function(x, ...)``, counted; a keyword that is True names a part with its own cost."""
        out = self._counted(x, *args, **kwargs)
        return out.to(x.dtype) if isinstance(out, Tensor) else out

    def _counted(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        meter, rows = self.meter, len(x)
        if meter._paused or rows == 0:
            return self.function(x, *args, **kwargs)
        mode = _mode()
        part = "".join(f".{name}" for name, value in kwargs.items() if value is True)
        key = f"{self.role}{part}/{mode}"
        if self.flops_per_row is not None:
            meter.unit[key] = self.flops_per_row
        with meter.clock.running() if meter.clock else nullcontext():
            if key in meter.unit:
                out = self.function(x, *args, **kwargs)
            else:
                with meter.eager(), count_all_flops() as counter:
                    out = self.function(x, *args, **kwargs)
                meter.unit[key] = counter.get_total_flops() / rows
        meter.rows[key] += rows
        meter.flops += meter.unit[key] * rows
        if torch.is_grad_enabled():
            meter._pending[key] += rows
        return out


@contextmanager
def count_all_flops() -> Iterator[FlopCounterMode]:
    """FLOPs of everything inside, through handles or not."""
    from torch.utils.flop_counter import FlopCounterMode  # .14 s: a plan counts nothing.

    with FlopCounterMode(display=False) as counter:
        yield counter
