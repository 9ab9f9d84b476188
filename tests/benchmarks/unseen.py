"""What a training step does that the budget does not count.

``python -m tests.benchmarks.unseen``: for every trained variant of ``digits_full``, at the fewest
evaluations it is trained for, the work of some training steps by three measures: FLOPs of matrix
products as the budget counts them; attention, which the CPU runs in a kernel of its own that
PyTorch's counter does not know; and everything else (norms, activations, policy rollouts, losses,
optimizers, copies), one operation for each element that is written, or read by a reduction. Only
the digits' networks are measured: a wider network does more products for each element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

ATTENTION: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_: (
        sdpa_backward_flop_count(g.shape, q.shape, k.shape, v.shape)
    ),
}
REDUCTIONS = {
    aten.sum, aten.mean, aten.var, aten.var_mean, aten.std, aten.amax, aten.max, aten.min,
    aten.logsumexp, aten.linalg_vector_norm, aten.norm, aten._foreach_norm, aten.all, aten.any,
}  # fmt: skip


def elements(value: Any) -> int:
    """Elements of a tensor, or of all tensors in a list."""
    if isinstance(value, Tensor):
        return value.numel()
    return sum(map(elements, value)) if isinstance(value, list | tuple) else 0


class Unseen(TorchDispatchMode):
    """Counts, inside it, what is no matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.elements = 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        if packet in ATTENTION:
            self.attention += ATTENTION[packet](*args)
        elif packet in flop_registry or self._only_looks(function):
            pass
        elif packet in REDUCTIONS:
            self.elements += elements(args[0])
        else:  # What is changed in place and not returned is the first argument.
            self.elements += elements(args[0] if out is None else out)
        return out

    @staticmethod
    def _only_looks(function: Any) -> bool:
        """Views, and memory that nothing is written to."""
        aliases = [r.alias_info for r in function._schema.returns]
        looks = any(a is not None and not a.is_write for a in aliases)
        return looks or function.overloadpacket in (aten.detach, aten.empty, aten.empty_like)


def of_variant(name: str, steps: int = 6) -> tuple[float, int, int]:
    """(FLOPs that the budget counts, attention's FLOPs, other elements) of a variant's steps."""
    from dataclasses import replace

    from piflow_bench.config.compose import compose
    from piflow_bench.contracts.data import TensorRows
    from piflow_bench.contracts.method import Spec
    from piflow_bench.pipeline.plan import make_plan, runtime_of
    from piflow_bench.training.settings import Budget, EMASettings, TrainingSettings
    from piflow_bench.training.trainer import Trainer, TrainingData

    # A buffer of one batch is full at once: the steps after are those that train on it.
    pairs = ["variants.kd.settings.pairs=64"] if name == "kd" else []
    (config,) = compose(["experiment=digits_full", f"only=[{name}]", *pairs])
    (variant,) = make_plan(config).variants
    nfe = None if variant.facts.elastic else min(variant.nfes)
    runtime = runtime_of(config)
    dataset = runtime.dataset()
    settings = dict(variant.training)
    settings["ema"] = EMASettings(**settings["ema"])
    trainer = Trainer(
        variant.method,
        runtime.teacher(),
        TrainingData(TensorRows(dataset.train), dataset.train_condition),
        Spec(
            dataset.shape,
            nfe,
            settings["batch"],
            lambda: runtime.teacher_plugin().fresh_network(dataset),
            dataset.train_condition,
        ),
        replace(TrainingSettings(**settings), warmup=0),
        Budget("tfe", 3000.0),
        0,
    )
    # What a part costs is measured at its first uses.
    for _ in range(2):
        trainer.run_step()
    before = trainer.flops
    with Unseen() as unseen:
        for _ in range(steps):
            trainer.run_step()
    return trainer.flops - before, unseen.attention, unseen.elements


def main() -> None:
    """Print the shares of all work that are not counted."""
    from piflow_bench.config.compose import compose
    from piflow_bench.pipeline.plan import make_plan

    print("| variant | attention | elements |\n|---|---|---|")
    (config,) = compose(["experiment=digits_full"])
    for variant in make_plan(config).variants:
        if variant.facts.trains:
            seen, attention, others = of_variant(variant.name)
            total = seen + attention + others
            print(f"| {variant.name} | {attention / total:.1%} | {others / total:.1%} |")


if __name__ == "__main__":
    main()
