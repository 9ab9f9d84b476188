"""How training is laid out on this machine. Nothing here changes a result beyond rounding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Devices, processes, and how a global batch is divided among them."""

    device: str = "cpu"
    """cpu | cuda: where networks are trained and sampled, latents decoded and features computed.

    ``cuda`` is the one GPU of a process, which it was given before it began.
    """
    processes: int = 1
    """Processes that train one student together."""
    parallel: str = "ddp"
    """ddp (weights replicated) | fsdp (weights, gradients and moments divided: FSDP2)."""
    micro_batch: int | None = None
    """Rows that a process passes through its networks at once; None: all of its own."""
    compile: bool = False
    """Whether torch.compile takes the networks' blocks."""

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ValueError(
                f"scale.device={self.device}: must be cpu or cuda; CUDA_VISIBLE_DEVICES says which "
                "GPUs there are"
            )
        if self.parallel not in ("ddp", "fsdp"):
            raise ValueError(f"scale.parallel={self.parallel}: must be ddp or fsdp")
        if self.processes < 1:
            raise ValueError(f"scale.processes={self.processes}: must be at least 1")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"scale.micro_batch={self.micro_batch}: must be at least 1")


def division(batch: int, processes: int, micro_batch: int | None) -> tuple[int, int]:
    """(micro-batches of a process, rows in each) of a global batch.

    All parts are of one size, so that the mean of their losses is the batch's.

    Raises:
        ValueError: if the batch does not divide by the processes.
    """
    rows, rest = divmod(batch, processes)
    if rest or not rows:
        raise ValueError(f"training.batch={batch}: must be a multiple of {processes} processes")
    parts = next(
        n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= (micro_batch or rows)
    )
    return parts, rows // parts
