"""How training is laid out on this machine. Nothing here changes a result beyond rounding."""

from __future__ import annotations

from dataclasses import dataclass

from piflow_bench.settings import setting


@dataclass(frozen=True)
class Scale:
    """Devices, processes, and how a global batch is divided among them."""

    device: str = setting(
        "cpu", choices=("cpu", "cuda"), words="CUDA_VISIBLE_DEVICES says which GPUs there are"
    )
    """Where networks are trained and sampled, latents decoded and features computed.

    ``cuda`` is the one GPU of a process, which it was given before it began.
    """
    processes: int = setting(1, least=1)
    """Processes that train one student together."""
    parallel: str = setting("ddp", choices=("ddp", "fsdp"))
    """ddp (weights replicated) | fsdp (weights, gradients and moments divided: FSDP2)."""
    micro_batch: int | None = setting(None, least=1)
    """Rows that a process passes through its networks at once; None: all of its own."""
    compile: bool = False
    """Whether torch.compile takes the networks' blocks."""


def division(
    batch: int, processes: int, micro_batch: int | None, group: int = 1
) -> tuple[int, int]:
    """(micro-batches of a process, rows in each) of a global batch.

    All parts are of one size, so that the mean of their losses is the batch's, and hold whole
    groups of ``group`` rows.

    Raises:
        ValueError: if the batch does not divide by the processes or into groups.
    """
    rows, rest = divmod(batch, processes)
    if rest or not rows:
        raise ValueError(f"training.batch={batch}: must be a multiple of {processes} processes")
    groups, torn = divmod(rows, group)
    if torn:
        raise ValueError(
            f"training.batch={batch}: {rows} rows of a process must be a multiple of {group}, the "
            "rows of a group"
        )
    most = (micro_batch or rows) // group
    if not most:
        raise ValueError(f"scale.micro_batch={micro_batch}: must hold {group}, the rows of a group")
    parts = next(n for n in range(1, groups + 1) if groups % n == 0 and groups // n <= most)
    return parts, rows // parts
