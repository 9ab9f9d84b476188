"""The state of a training run on disk: whole, sharded by whoever writes it, read by any number.

Tensors are in torch.distributed.checkpoint's format, so that what two processes wrote one can read,
and the other way round; everything else is in a JSON file beside them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piflow_bench.training.distributed import summed, wait_for_all, world
from piflow_bench.training.trainer import Trainer

STATE = "state"
FACTS = "facts.json"
MOMENTS = "optimizers"


class Unusable(RuntimeError):
    """A state that training cannot go on from, and why."""


FULL = 1 << 20
"""Free bytes below which a failure to write is the disk's."""


def _tensors(trainer: Trainer) -> dict[str, Any]:
    """Every tensor of the state by name, as it lies in memory: reading fills them in place."""
    found: dict[str, Any] = {}
    for name, module in trainer.modules.items():
        found |= {f"modules/{name}/{k}": v for k, v in module.state_dict().items()}
    for name, average in trainer.ema.items():
        found |= {f"ema/{name}/{k}": v for k, v in average.average.items()}
    for path, state in _moments(trainer):
        found |= {f"{path}/{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    return found


def _moments(trainer: Trainer) -> Iterator[tuple[str, dict[str, Any]]]:
    """The optimizers' state of every parameter, by name."""
    for name, optimizer in trainer.optimizers.items():
        for module in trainer.built.optimizers[name].modules:
            for key, p in trainer.modules[module].named_parameters():
                if p in optimizer.state:
                    yield f"{MOMENTS}/{name}/{module}.{key}", optimizer.state[p]


def _make_moments(trainer: Trainer) -> None:
    """Give every parameter its moments, to be read into: a step of rate zero makes them."""
    for optimizer in trainer.optimizers.values():
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _steps(trainer: Trainer) -> dict[str, int]:
    """Steps by parameter, of optimizers that count them as plain numbers."""
    found = ((path, moments.get("step")) for path, moments in _moments(trainer))
    return {path: step for path, step in found if isinstance(step, int)}


def save(trainer: Trainer, folder: Path) -> None:
    """Write the state to ``folder / "state"``, all or nothing. All processes must call it."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    rank, size = world()
    target, fresh, old = (folder / f"{STATE}{end}" for end in ("", ".tmp", ".old"))
    rows = trainer.rows_counted()
    if rank == 0:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
    wait_for_all()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of a single process, of torch's own deprecations.
            dcp.save(_tensors(trainer), checkpoint_id=str(fresh / "tensors"), no_dist=size == 1)
    except CheckpointException as error:
        full = shutil.disk_usage(folder).free < FULL
        if rank == 0:  # The state before stays; its successor's pieces only take its room.
            shutil.rmtree(fresh, ignore_errors=True)
        if full:  # Writers hide the error's number.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise next(iter(error.failures.values()))[0] from error
    if rank == 0:
        facts = {
            "step": trainer.step,
            "images": trainer.images,
            "seconds": trainer.seconds,
            "flops": trainer.flops,
            "reached": trainer.reached,
            "rows": rows,
            "unit": trainer.meter.unit,
            "ema": {name: average.updates for name, average in trainer.ema.items()},
            "steps": _steps(trainer),
            "random": torch.get_rng_state().tolist(),
        }
        (fresh / FACTS).write_text(json.dumps(facts))
        if target.exists():  # Else the one before is the only whole one.
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(fresh, target)
        shutil.rmtree(old, ignore_errors=True)
    wait_for_all()


def load(trainer: Trainer, folder: Path) -> bool:
    """Go on from the state in ``folder``, if there is one. All processes must call it.

    Raises:
        Unusable: if it is damaged, of another network, or not finite; the trainer is spoilt then.
    """
    # A process killed between two renames leaves the one before.
    kept = [folder / f"{STATE}{end}" for end in ("", ".old")]
    source = next((path for path in kept if (path / FACTS).is_file()), None)
    if source is None:
        return False
    reason = ""
    try:
        _read(trainer, source)
    except Unusable as error:
        reason = str(error)
    except BaseException as error:  # torch's CheckpointException is no Exception.
        if isinstance(error, KeyboardInterrupt) or _of_the_machine(error):
            raise
        lines = str(error).strip().splitlines()
        reason = f"it cannot be read ({type(error).__name__}: {lines[-1] if lines else ''})"
    reason = reason or (f"{bad} is not finite" if (bad := trainer.not_finite()) else "")
    if summed(torch.tensor([float(bool(reason))])).item():
        raise Unusable(reason or "another process cannot read it")
    return True


def _of_the_machine(error: BaseException) -> bool:
    """Whether a disk or a lack of memory is to blame, so that the state may be whole."""
    within = [each for each, *_ in getattr(error, "failures", {}).values()]
    if any(_of_the_machine(each) for each in [*within, error.__cause__] if each is not None):
        return True
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)
    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def _read(trainer: Trainer, source: Path) -> None:
    import torch.distributed.checkpoint as dcp

    facts = json.loads((source / FACTS).read_text())
    _make_moments(trainer)
    written = dcp.FileSystemReader(source / "tensors").read_metadata().state_dict_metadata
    # A parameter that no gradient had reached had no moments: it starts without them again.
    for path, moments in list(_moments(trainer)):
        if not any(f"{path}/{k}" in written for k in moments):
            moments.clear()
    tensors = _tensors(trainer)
    others = {n for n in {*written} ^ {*tensors} if not n.startswith(MOMENTS)}
    if others:
        raise Unusable(f"it is of another network ({min(others)})")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(tensors, checkpoint_id=str(source / "tensors"), no_dist=world()[1] == 1)
    for name, module in trainer.modules.items():
        start = f"modules/{name}/"
        module.load_state_dict(
            {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        )
    for path, moments in _moments(trainer):
        if path in facts["steps"]:
            moments["step"] = facts["steps"][path]
    for name, updates in facts["ema"].items():
        trainer.ema[name].updates = updates
    trainer.step, trainer.images = facts["step"], facts["images"]
    trainer.seconds, trainer.flops = facts["seconds"], facts["flops"]
    trainer.reached = facts["reached"]
    trainer.meter.unit = facts["unit"]
    if trainer.rank == 0:  # Sums over processes: one of them holds what was spent before.
        trainer.meter.flops = facts["flops"]
        trainer.meter.rows.update(facts["rows"])
    trainer.start_clock()
    torch.set_rng_state(torch.tensor(facts["random"], dtype=torch.uint8))


def forget(folder: Path) -> None:
    """Remove the state of a finished run."""
    if world()[0] == 0:
        for end in ("", ".tmp", ".old"):
            shutil.rmtree(folder / f"{STATE}{end}", ignore_errors=True)
