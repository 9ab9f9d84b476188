"""A student of a run as a function of noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from piflow_bench.pipeline.plan import Cell
    from piflow_bench.runs.run import Run


class Sampler:
    """A student of a run: a function from noise, or a seed, to samples at its NFE."""

    def __init__(self, run: Run, cell: Cell) -> None:
        self.run, self.nfe = run, int(cell.columns["nfe"])
        self._stage = cell.samples[0]

    def __call__(
        self, noise: torch.Tensor | int = 0, labels: Any = None, *, n: int | None = None
    ) -> torch.Tensor:
        """Samples ``(n, *shape)`` float32 in the model's space.

        Args:
            noise: noise ``(n, *shape)`` at t = 1; or a sample seed, with which sample i has the
                noise, label and step noise that a run of that ``sample_seed`` gives it.
            labels: classes ``(n,)``; by default those of the samples' indices.
            n: how many, of a seed; the run's batch by default.
        """
        import torch

        from piflow_bench.pipeline.plan import runtime_of
        from piflow_bench.pipeline.stages.samples import Sample
        from piflow_bench.randomness import SampleRandom

        task, runtime = self._stage.task, runtime_of(self.run.config)
        assert isinstance(task, Sample)
        folders = {k: [self.run._kept(s) for s in v] for k, v in self._stage.inputs.items()}
        given = noise if isinstance(noise, torch.Tensor) else None
        seed = int(noise) if given is None else task.sample_seed
        count = n or runtime.sample_batch if given is None else len(given)
        with _threads(self.run.config.training.threads), torch.no_grad():
            ready = task.ready(folders, runtime)
            where, dataset = ready.arithmetic, ready.dataset
            if isinstance(ready.network, torch.nn.Module):
                ready.network.eval()
            found = []
            for low in range(0, count, runtime.sample_batch):
                part = range(low, min(low + runtime.sample_batch, count))
                random = SampleRandom(seed, part, where.device)
                start = None if given is None else given[low : part.stop].to(where.device)
                condition = dataset.conditions(seed, part)
                if labels is not None:
                    condition = condition.unpack(torch.as_tensor(labels)[part.start : part.stop])
                bound = ready.student.bind(ready.network)
                with where.autocast():
                    x = bound.sample(
                        random.noise(dataset.shape) if start is None else start,
                        condition.to(where.device),
                        self.nfe,
                        random,
                        **task.sampling,
                    )
                found.append(x.float().cpu())
        return torch.cat(found)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The run's number of threads, on which the last bits of a product depend."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
