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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from piflow_bench.files.atomic import exchange
from piflow_bench.training.distributed import from_first, gather_rows, wait_for_all, world
from piflow_bench.training.trainer import Trainer

STATE = "state"
FACTS = "facts.json"
MOMENTS = "optimizers"
FINE, DAMAGED, UNREADABLE = range(3)
"""What a process says of a state: that it is whole, or not, or that its machine does not answer."""
T = TypeVar("T")


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
        exchange(fresh, target, old)
    wait_for_all()


def load(trainer: Trainer, folder: Path) -> bool:
    """Go on from the state in ``folder``, if there is one. All processes must call it.

    Raises:
        Unusable: if it is damaged, of another network, or not finite; the trainer is spoilt then.
    """
    # The first process decides for all: another machine may see a shared disk as it was before.
    source = from_first(lambda: _newest(folder))
    if source is None:
        return False
    facts = _together(lambda: _open(trainer, source), alike=True)
    _together(lambda: _fill(trainer, source, facts))
    _together(lambda: _refuse_not_finite(trainer))
    return True


def _newest(folder: Path) -> Path | None:
    """The state to go on from: a process killed between two renames leaves the one before."""
    kept = [folder / f"{STATE}{end}" for end in ("", ".old")]
    return next((path for path in kept if (path / FACTS).is_file()), None)


def _together(step: Callable[[], T], alike: bool = False) -> T:
    """What ``step`` gives; every process learns of a failure in any, and none goes on alone.

    Args:
        step: what each process does.
        alike: whether all read the same files: what the first one can read is whole, and who
            cannot has its machine to blame.

    Raises:
        Unusable: in all processes, if the state is to blame.
    """
    found: list[T] = []
    verdict, reason, failure = FINE, "", None
    try:
        found.append(step())
    except Unusable as error:
        verdict, reason = DAMAGED, str(error)
    except BaseException as error:  # torch's CheckpointException is no Exception.
        if isinstance(error, KeyboardInterrupt):
            raise
        lines = str(error).strip().splitlines()
        verdict = UNREADABLE if _of_the_machine(error) else DAMAGED
        reason = f"it cannot be read ({type(error).__name__}: {lines[-1] if lines else ''})"
        failure = error
    verdicts = gather_rows(torch.tensor([verdict])).tolist()
    worst = max(verdicts)
    if alike and worst:
        worst = verdicts[0] or UNREADABLE
    if worst == UNREADABLE:
        raise failure or RuntimeError("another process cannot read the state it had kept")
    if worst == DAMAGED:
        raise Unusable(reason or "another process cannot read it")
    return found[0]


def _of_the_machine(error: BaseException) -> bool:
    """Whether a disk or a lack of memory is to blame, so that the state may be whole."""
    within = [each for each, *_ in getattr(error, "failures", {}).values()]
    if any(_of_the_machine(each) for each in [*within, error.__cause__] if each is not None):
        return True
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)
    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def _open(trainer: Trainer, source: Path) -> dict[str, Any]:
    """The facts of a state whose tensors fit the trainer, which has room for them then."""
    import torch.distributed.checkpoint as dcp

    facts: dict[str, Any] = json.loads((source / FACTS).read_text())
    _make_moments(trainer)
    written = dcp.FileSystemReader(source / "tensors").read_metadata().state_dict_metadata
    # A parameter that no gradient had reached had no moments: it starts without them again.
    for path, moments in list(_moments(trainer)):
        if not any(f"{path}/{k}" in written for k in moments):
            moments.clear()
    others = {n for n in {*written} ^ {*_tensors(trainer)} if not n.startswith(MOMENTS)}
    if others:
        raise Unusable(f"it is of another network ({min(others)})")
    return facts


def _fill(trainer: Trainer, source: Path, facts: dict[str, Any]) -> None:
    """Read the tensors, all processes together, and take over the facts."""
    import torch.distributed.checkpoint as dcp

    tensors = _tensors(trainer)
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


def _refuse_not_finite(trainer: Trainer) -> None:
    if bad := trainer.not_finite():
        raise Unusable(f"{bad} is not finite")


def forget(folder: Path) -> None:
    """Remove the state of a finished run."""
    if world()[0] == 0:
        for end in ("", ".tmp", ".old"):
            shutil.rmtree(folder / f"{STATE}{end}", ignore_errors=True)
