"""What a run will do, and how long that takes: the words of ``run --plan``."""

import re
import subprocess
import sys

import pytest
import torch

from piflow_bench.config.compose import compose
from piflow_bench.data import digits_extractor
from piflow_bench.pipeline import forecast as F
from piflow_bench.pipeline.plan import make_plan, runtime_of
from piflow_bench.pipeline.store.store import Store
from piflow_bench.teachers import closed_form


def plan_of(*settings):
    (config,) = compose(["profile=smoke", *settings])
    return make_plan(config)


def words(capsys, tmp_path, *settings):
    (config,) = compose(["profile=smoke", *settings])
    F.print_plan(make_plan(config), Store(tmp_path / "store"))
    return " ".join(capsys.readouterr().out.split())


def test_steps_of_trainings_are_run_and_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(F, "BOX", 60.0)
    text = words(capsys, tmp_path, "only=[kd,meanflow,teacher-euler]")
    assert re.search(r"training \d+ students for \d+ tfe: about .* on \d workers?", text), text
    assert "by steps of kd, meanflow run here; metrics come on top" in text


def test_without_trainings_forwards_are_counted(capsys, tmp_path):
    text = words(capsys, tmp_path, "only=[teacher-euler]")
    assert "by its forwards" in text and "training" not in text


def test_where_a_forward_is_slow_no_step_is_run_and_a_bound_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(F, "SLOW", 0.0)
    monkeypatch.setattr(F, "_seconds_of_a_unit", None)
    assert "at least" in words(capsys, tmp_path, "only=[kd]")


def test_a_method_that_fails_is_taken_for_as_quick_as_the_others(monkeypatch):
    plan = plan_of("only=[kd,meanflow]")
    monkeypatch.setattr(F, "BOX", 60.0)

    def failing(plan, task, share):
        if task.method == "kd":
            raise RuntimeError("broken")
        return 0.5

    monkeypatch.setattr(F, "_seconds_of_a_unit", failing)
    found = F.forecast(plan, plan.stages)
    budgets = [s.task.budget["amount"] for s in plan.stages if s.kind == "distill"]
    assert found.tried == ("meanflow",) and found.training == pytest.approx(0.5 * sum(budgets))


def test_where_a_forward_takes_long_a_part_of_a_batch_is_tried(monkeypatch):
    plan, shares, seen = plan_of("only=[kd]"), [], []
    (task, *_) = (s.task for s in plan.stages if s.kind == "distill")
    monkeypatch.setattr(F, "_seconds_of_a_unit", lambda *a: shares.append(a[-1]) or 1.0)
    for forward in (1e-5, 0.05, 10.0):
        F._rates(plan, [task], forward)
    assert shares[0] == 1.0 and 0.1 < shares[1] < 0.5 and shares[2] < 0.01
    monkeypatch.undo()
    step = type(task.method_of(runtime_of(plan.config))).training_step

    def watched(method, batch, context):
        seen.append(len(batch.x0))
        return step(method, batch, context)

    monkeypatch.setattr(type(task.method_of(runtime_of(plan.config))), "training_step", watched)
    for share in (1.0, 0.5, 0.0):
        assert F._seconds_of_a_unit(plan, task, share) > 0
    assert set(seen) == {16, 8}, "a whole batch, and no fewer than eight rows"


@pytest.mark.parametrize("unit", ["tfe", "images", "seconds"])
def test_units_of_budgets(unit, monkeypatch):
    monkeypatch.setattr(F, "BOX", 60.0)
    plan = plan_of("only=[meanflow]", f"budget.unit={unit}", "budget.amount=50")
    found = F.forecast(plan, plan.stages)
    assert found.tried == ("meanflow",) and 0 < found.training < 600
    if unit == "seconds":  # A clock's time is known.
        trainings = sum(s.kind == "distill" for s in plan.stages)
        assert found.training == pytest.approx(50 * trainings, rel=0.1)


def test_a_start_that_is_yet_to_be_fitted_is_not_fitted_for_it(monkeypatch):
    monkeypatch.setattr(closed_form, "fit_backbone", None)
    plan = plan_of("experiment=analytic_checkerboard2d", "only=[kd,teacher-euler]")
    before = torch.get_num_threads()
    found = F.forecast(plan, plan.stages)
    assert found.tried == ("kd",) and found.sampling > 0
    assert torch.get_num_threads() == before


def test_solvers_cost_their_evaluations():
    plan = plan_of("only=[teacher-euler]", "nfes=[1,4]")
    stages = [s for s in plan.stages if s.kind == "sample" and "teacher-euler " in s.label + " "]
    rows = {s.task.nfe: F._rows_forward(s.task, plan) for s in stages}
    assert rows[4] == 4 * rows[1] > 0
    (converged, *_) = (s for s in plan.stages if s.kind == "converged")
    count = converged.task.stop - converged.task.start
    # Guided: two evaluations a step.
    assert F._rows_forward(converged.task, plan) == 2 * converged.task.steps * count


def test_a_plan_of_exact_derivatives_imports_neither_torchs_compiler_nor_its_counter():
    """Either costs a plan a good part of its three seconds."""
    code = """
import sys
from piflow_bench.cli import main
code = main(["run", "experiment=analytic", "--plan", "only=[meanflow]"])
print([m for m in ("torch._dynamo", "torch.utils.flop_counter") if m in sys.modules], code)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "steps of meanflow" in found.stdout
    assert found.stdout.splitlines()[-1] == "[] 0", found.stdout[-500:] + found.stderr[-500:]


def test_features_take_their_extractors_time(monkeypatch):
    plan = plan_of("only=[teacher-euler]", "nfes=[1]")
    described = [s for s in plan.stages if s.kind == "features"]
    count = sum(F._count(s.task, plan) for f in described for s in f.inputs["samples"])
    drawn = {s.task.split: F._count(s.task, plan) for s in plan.stages if s.kind == "draw"}
    assert drawn["test"] == len(plan.dataset.held_out) and count > sum(drawn.values())
    monkeypatch.setattr(digits_extractor.Digits, "seconds", 2.0)
    monkeypatch.setattr(digits_extractor.DigitsPixels, "seconds", 0.0)
    found = F.forecast(plan, plan.stages)
    assert found.describing == pytest.approx(2.0 * count) and found.seconds > found.describing
    assert found.on_top == "features by digits-pixels and metrics"
