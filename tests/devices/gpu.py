"""A GPU that is not there: CPU values under a cuda label, refused where devices are mixed.

Every tensor stays an ordinary tensor on the CPU, so that autograd, autocast, forward mode and
optimizers run as they are. The label lies on its storage, which its views share; a dispatch mode
sees every operation, those of backward passes among them, and is as strict as torch: a CPU tensor
meets a GPU's in a copy, as an index, or as a number without dimensions in elementwise arithmetic.
Numbers are those of the CPU, so that what is computed on it can be compared bit by bit.

(torch's own FakeTensorMode cannot run backward passes under a cuda label where torch was built for
CUDA and there is no driver, and has no values.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed
from torch.amp.autocast_mode import autocast
from torch.distributed.checkpoint import filesystem
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MOVES = ("aten::copy_", "aten::_to_copy", "aten::lift_fresh", "c10d::barrier")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


def _storage(x: Tensor) -> Any:
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.untyped_storage()


REAL = torch._C.TensorBase.device


def _place(x: Tensor) -> bool | None:
    """Whether a tensor is on the GPU; None for zeros of forward mode and meta tensors: nowhere."""
    return getattr(_storage(x), "on_gpu", False) if REAL.__get__(x).type == "cpu" else None


def on_gpu(x: Tensor) -> bool:
    """Whether a tensor is labelled as on the GPU."""
    return bool(_place(x))


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, Tensor)]


def _refuse(op: Any, what: str) -> None:
    raise RuntimeError(f"Expected all tensors to be on the same device, but {op} was given {what}")


def _check(op: Any, args: Any, kwargs: Any) -> None:
    """Raise a RuntimeError where torch would, for the devices of an operation's tensors."""
    name = op._schema.name
    if name in MOVES:
        return
    numbers = torch.Tag.pointwise in op.tags or op.namespace == "prims"
    if name in INDEXING:
        whole, indices, *args = args
        if not on_gpu(whole) and any(map(on_gpu, _tensors(indices))):
            _refuse(op, "a GPU's indices of a CPU tensor")
        args, numbers = (whole, *args), True
    elif name.startswith("aten::_foreach"):  # Lists are of one device; a factor may be a number.
        numbers = False
        args = [a for a in args if not (isinstance(a, Tensor) and a.ndim == 0)]
    cpu, gpu = [], []
    for x in _tensors((args, kwargs)):
        if (place := _place(x)) is not None:
            (gpu if place else cpu).append(x)
    if gpu and cpu and not (numbers and all(x.ndim == 0 for x in cpu)):
        _refuse(op, f"CPU tensors of shapes {[tuple(x.shape) for x in cpu]}")
    written = args[0] if op._schema.is_mutable and args else None
    if gpu and isinstance(written, Tensor) and not on_gpu(written):
        _refuse(op, "a GPU's values to write into a CPU tensor")
    generator = kwargs.get("generator")
    asked = torch.device(kwargs.get("device") or "cpu").type
    if generator is not None and generator.device.type == "cpu" and (gpu or asked == "cuda"):
        _refuse(op, "a CPU's generator")


class _Devices(TorchDispatchMode):
    """Follows labels through every operation."""

    backends: dict[str, str] | None = None
    """What torch would have registered for a process group, by device."""

    def __torch_dispatch__(
        self, op: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        _check(op, args, kwargs)
        given = _tensors((args, kwargs))
        if op.namespace == "c10d" and op._schema.name not in MOVES:
            for x in given:
                if self.backends is not None and x.device.type not in self.backends:
                    raise RuntimeError(f"No backend type associated with device type {x.device}")
        places = [_place(x) for x in given]
        gpu: bool | None = any(places)
        if op._schema.name == "aten::_efficientzerotensor" or places and set(places) == {None}:
            gpu = None
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == "cuda":
            gpu, kwargs["device"] = True, CPU
        elif not given and torch._C._current_graph_task_id() != -1:
            gpu = True  # Zeros that a backward pass begins with, on the device of a tensor.
        known = {id(_storage(x)) for x in given}
        out = op(*args, **kwargs)
        if gpu is not False:
            for x in _tensors(out):
                if id(_storage(x)) not in known:  # Views and what is written in place keep theirs.
                    _storage(x).on_gpu = gpu
        return out


class _Event:
    def __init__(self, **options: Any) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: _Event) -> float:
        return 1000 * (other.at - self.at)


def _patches(mode: _Devices) -> dict[Any, dict[str, Any]]:
    """What of torch answers otherwise where there is a GPU, by its place."""
    move, to_numpy, deepcopy = Tensor.to, Tensor.numpy, Tensor.__deepcopy__
    tensor, as_tensor, begin = torch.tensor, torch.as_tensor, autocast.__init__
    join = distributed.init_process_group

    def to(self: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if "other" in kwargs:
            args, kwargs = (kwargs.pop("other"), *args), kwargs
        if args and isinstance(args[0], Tensor):
            args, kwargs = args[1:], {"device": args[0].device, "dtype": args[0].dtype, **kwargs}
            kwargs.update(zip(("non_blocking", "copy"), args, strict=False))
            copy, args = kwargs.pop("copy", copy), ()
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        there = on_gpu(self) if device is None else device.type == "cuda"
        moved = there != on_gpu(self)
        out = move(self, dtype=dtype or self.dtype, copy=copy or moved, memory_format=layout)
        if moved:
            _storage(out).on_gpu = there
        return out

    def numpy(self: Tensor, **options: Any) -> Any:
        if on_gpu(self):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return to_numpy(self, **options)

    def copied(self: Tensor, memo: Any) -> Tensor:
        out = deepcopy(self, memo)
        _storage(out).on_gpu = on_gpu(self)
        return out

    def made(make: Any) -> Any:
        def call(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            out = make(data, *args, **kwargs)
            return out if device is None else out.to(device)

        return call

    def cast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    def join_as_asked(backend: str, **where: Any) -> None:
        config = distributed.distributed_c10d.BackendConfig(distributed.Backend(backend))
        mode.backends = config.device_backend_map
        join("gloo", **where)

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    return {
        Tensor: {
            "device": property(lambda self: GPU if on_gpu(self) else REAL.__get__(self)),
            "is_cuda": property(on_gpu),
            "to": to,
            "cpu": lambda self: to(self, "cpu"),
            "cuda": lambda self, device=None: to(self, "cuda"),
            "numpy": numpy,
            "pin_memory": lambda self: self,
            "new_tensor": lambda self, data, **options: torch.tensor(
                data, **{"dtype": self.dtype, "device": self.device, **options}
            ),
            "__deepcopy__": copied,
        },
        torch: {"tensor": made(tensor), "as_tensor": made(as_tensor)},
        autocast: {"__init__": cast},
        distributed: {"init_process_group": join_as_asked},
        filesystem: {"_OverlappingCpuLoader": lambda read, **_: filesystem._SerialCpuLoader(read)},
        torch.optim.Optimizer: {
            "_accelerator_graph_capture_health_check": nothing,
            "_cuda_graph_capture_health_check": nothing,
        },
        torch.cuda: {
            "_lazy_init": nothing,
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "is_bf16_supported": lambda *args: True,
            "get_device_name": lambda *args: "no GPU",
            "set_device": nothing,
            "synchronize": nothing,
            "reset_peak_memory_stats": nothing,
            "max_memory_allocated": lambda *args: 0,
            "Event": _Event,
        },
    }


@contextmanager
def gpu() -> Iterator[None]:
    """Inside it ``cuda`` is a device."""
    import torch._dynamo  # noqa: F401  It looks through torch's functions before they change.

    mode = _Devices()
    started = []
    try:
        for place, values in _patches(mode).items():
            for name, value in values.items():
                started.append(patch.object(place, name, value, create=True))
                started[-1].start()
        with mode:
            yield
    finally:
        for each in reversed(started):
            each.stop()
