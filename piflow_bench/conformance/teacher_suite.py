"""The contract of a teacher plugin as tests, on the dataset that is given or on stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.backbone_suite import backbone_tests, needed_by
from piflow_bench.conformance.dataset import network_of, teacher_problems
from piflow_bench.conformance.dataset_suite import dataset_beside
from piflow_bench.conformance.plugin import (
    asked,
    check_identity,
    check_requirements,
    open_plugin,
)
from piflow_bench.conformance.results import (
    FAILED,
    SKIPPED,
    CheckResult,
    Skip,
    Test,
    attempt,
    attempt_given,
    require,
    run_tests,
)
from piflow_bench.conformance.teacher import look_at
from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import Guidance, Guided, Teacher, TeacherPlugin
from piflow_bench.errors import UserError
from piflow_bench.randomness import SampleRandom
from piflow_bench.training.output import weights_file

ROWS = 6
TOLERANCE = 1e-4
"""Of the largest velocity: between batches of other sizes."""
STAND_INS = {
    "images": standins.images,
    "images without labels": standins.unlabelled_images,
    "points": standins.points,
}


def check_teacher(name: str, arguments: list[str]) -> list[CheckResult]:
    """Run the contract's tests on a teacher.

    Args:
        name: the teacher's registered name.
        arguments: its settings, ``dataset=NAME``, ``dataset.key=value``, ``space=NAME``,
            ``space.key=value``, ``plugins=``. Without a dataset it is tested on stand-ins, of
            which it need serve but one.

    Raises:
        UserError: for unknown names and settings, missing files, and a dataset that it refuses.
    """
    which = asked("teacher", name, arguments, ("dataset", "space"))
    if "space" in which.beside and "dataset" not in which.beside:
        raise UserError("space: belongs to a dataset; dataset=NAME is needed beside it")
    opened = open_plugin(which)
    results = [opened.result]
    if opened.plugin is None:
        return results
    plugin, source = opened.plugin, opened.source
    results.append(attempt_given("requirements", lambda: check_requirements(plugin), source))
    results.append(attempt_given("identity", lambda: check_identity(plugin), source))
    methods = needed_by(which.folders)
    if "dataset" in which.beside:
        dataset = dataset_beside(which)
        return results + _on(plugin, dataset, dataset.name, source, methods, real=True)
    refused = []
    for label, stand_in in STAND_INS.items():
        found = _on(plugin, stand_in().dataset, label, source, methods)
        refused += [found[-1].reason] if found[-1].status == SKIPPED and len(found) == 1 else []
        results += found
    if len(refused) == len(STAND_INS):
        words = "serves none of the stand-ins; name a dataset that it is a teacher of: dataset=NAME"
        results.append(CheckResult("datasets", FAILED, words))
    return results


def _on(
    plugin: TeacherPlugin,
    dataset: Dataset,
    label: str,
    source: str,
    methods: Mapping[str, Sequence[str]],
    real: bool = False,
) -> list[CheckResult]:
    """All tests on one dataset; what refuses a stand-in is a skipped test, and the only one."""
    loaded: list[_Loaded] = []
    with TemporaryDirectory() as folder:

        def load() -> str:
            try:
                loaded.append(_load(plugin, dataset, Path(folder)))
            except UserError as error:
                if real:
                    raise
                raise Skip(f"refuses them: {error}") from error
            return type(loaded[0].teacher.network).__name__

        results = [(attempt_given if real else attempt)(f"{label}: load", load, source)]
        if loaded:
            network = loaded[0].teacher.network
            tests = [*loaded[0].tests(real), *backbone_tests(network, dataset, methods)]
            results += run_tests(tests, label, source)
    return results


def _load(plugin: TeacherPlugin, dataset: Dataset, folder: Path) -> _Loaded:
    """Look, the network without weights, and two loads, as a run does one after the other."""
    taken = plugin.look(dataset)
    require(isinstance(taken, str), f"look() gives {type(taken).__name__}, not a text")
    network, problems = network_of(dataset, plugin)
    require(not problems, "; ".join(problems))
    require(
        isinstance(network, nn.Module),
        f"fresh_network() gives {type(network).__name__}, not a module",
    )
    made, trained = folder if plugin.made else None, False
    if made is not None:
        trained = plugin.training(dataset) is not None
        if trained:  # In place of its training, which takes as long as a run.
            state = plugin.fresh_network(dataset).state_dict()
            save_file(state, weights_file(made))
        else:
            plugin.make(dataset, made, lambda share, words: None)
    first, second = plugin.load(dataset, made), plugin.load(dataset, made)
    require(isinstance(first, Teacher), f"load() gives {type(first).__name__}, not a Teacher")
    return _Loaded(plugin, dataset, first, second, trained)


@dataclass(frozen=True)
class _Loaded:
    """A teacher on a dataset, loaded twice."""

    plugin: TeacherPlugin
    dataset: Dataset
    teacher: Teacher
    again: Teacher
    untrained: bool
    """Whether it would be trained by a stage first."""

    def tests(self, real: bool) -> list[Test]:
        """In order; ``real``: the dataset is one that it should know."""
        found: list[Test] = [
            ("velocity", self.velocity, ()),
            ("same weights", self.same_weights, ("velocity",)),
            ("frozen", self.frozen, ("velocity",)),
            ("rows", self.rows, ("velocity",)),
            ("guidance", self.guidance, ("velocity",)),
        ]
        return [*found, ("a teacher of these data", self.fits, ("velocity",))] if real else found

    def inputs(self) -> tuple[Tensor, Condition]:
        """Noise and conditions of a few samples."""
        rows = range(ROWS)
        return SampleRandom(0, rows).noise(self.dataset.shape), self.dataset.conditions(0, rows)

    def times(self) -> Tensor:
        """Of all rows another, both ends among them."""
        return torch.linspace(0, 1, ROWS)

    def velocity(self) -> None:
        """Finite and of the samples' shape from data to noise, guided and not."""
        problems = teacher_problems(self.dataset, self.teacher)
        require(not problems, "; ".join(problems))
        x, condition = self.inputs()
        before = x.clone()
        ways: dict[str, Callable[..., Tensor]] = {
            "the velocity": self.teacher.conditional,
            "the guided velocity": self.teacher,
            "the network": self.teacher.network,
        }
        for what, call in ways.items():
            for time in (0.0, 0.5, 1.0):
                with torch.no_grad():
                    out = call(x, torch.full((ROWS,), time), condition)
                require(out.shape == x.shape, f"{what} is {tuple(out.shape)} at t = {time}")
                require(bool(out.isfinite().all()), f"{what} is not finite at t = {time}")
                require(torch.equal(x, before), f"{what} changes the states it is asked at")

    def same_weights(self) -> None:
        """Two loads give the same network and the same field."""
        a, b = self.teacher.network.state_dict(), self.again.network.state_dict()
        differ = [k for k in {**a, **b} if k not in a or k not in b or not torch.equal(a[k], b[k])]
        require(not differ, f"two loads give other weights, first {differ[:1]}: seed what is drawn")
        x, condition = self.inputs()
        ways = (self.teacher.conditional, self.again.conditional)
        first, second = (way(x, self.times(), condition) for way in ways)
        require(torch.equal(first, second), "two loads give other velocities")

    def frozen(self) -> None:
        """In the mode of evaluation, without gradients, and without draws of its own."""
        network = self.teacher.network
        require(not network.training, "its network is in the mode of training after load()")
        wish = [name for name, p in network.named_parameters() if p.requires_grad]
        require(not wish, f"its network's {wish[:1]} requires gradient after load()")
        x, condition = self.inputs()
        first, second = (self.teacher(x, self.times(), condition) for _ in range(2))
        require(torch.equal(first, second), "gives another velocity when it is asked again")

    def rows(self) -> None:
        """A row's velocity is its own, whatever is asked beside it, and at which times."""
        x, condition = self.inputs()
        t = self.times()
        whole = self.teacher.conditional(x, t, condition)
        part = self.teacher.conditional(x[4:], t[4:], condition[torch.arange(4, ROWS)])
        apart = float((whole[4:] - part).abs().max())
        require(
            apart <= TOLERANCE * max(float(whole.abs().max()), 1.0),
            f"a row's velocity depends on the rows beside it: by up to {apart:.2g}",
        )

    def guidance(self) -> str:
        """The guidance of its settings is the teacher's, and empty conditions are understood."""
        stated, given = self.plugin.guidance, self.teacher.guidance
        require(stated == given, f"load() gives a teacher of {given}, its settings say {stated}")
        if not (given.on or isinstance(self.plugin.config, Guided)):
            raise Skip("it cannot be guided: Config is no subclass of Guided")
        x, condition = self.inputs()
        t = self.times()
        empty: Any = self.teacher.conditional(x, t, condition.null())
        require(
            empty.shape == x.shape and bool(empty.isfinite().all()),
            "gives no finite velocity of empty conditions, condition.null()",
        )
        guided = self.teacher.guided(Guidance(2.0))(x, t, condition)
        expected = 2 * self.teacher.conditional(x, t, condition) - empty
        require(
            torch.allclose(guided, expected, rtol=1e-3, atol=1e-3),
            "its guided velocity is not that of scale * u - (scale - 1) * u(empty)",
        )
        return f"scale {given.scale:g}"

    def fits(self) -> str:
        """Its loss on real samples is least in the reading that is set."""
        if self.untrained:
            raise Skip("a stage trains it first")
        if not len(self.dataset.training_rows):
            raise Skip("there are no training samples")
        report = look_at(self.dataset, self.teacher)
        require(not report.problem, report.problem)
        if report.note:
            raise Skip(report.note)
        return f"loss {sum(report.loss) / len(report.loss):.2f} of predicting nothing"
