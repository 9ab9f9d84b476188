"""What of an experiment's design favours somebody, or makes its results a first look."""

from __future__ import annotations

import numpy as np

from piflow_bench.pipeline.plan import Plan

ENOUGH = 500
"""Times each image is seen in a training that is not called brief."""


def design_warnings(plan: Plan) -> list[str]:
    """What of an experiment's design favours somebody, in words."""
    config = plan.config
    scale = plan.teacher.guidance.scale if plan.teacher else 1
    found = [*(plan.dataset.cautions if plan.dataset else ()), *_brief(plan)]
    p = config.protocol
    if "imitation" in p.questions and p.reference_seed == config.sample_seed:
        found.append(
            f"protocol.reference_seed={p.reference_seed}: the reference shares its noise with the "
            "samples, so that distances to it are smaller than to other samples of the teacher, "
            "its own most of all"
        )
    trained = [v for v in plan.variants if v.facts.trains]
    swept = all(len(np.atleast_1d(v.config.sampling.get("guidance", []))) > 1 for v in trained)
    if config.protocol.primary_question == "data" and scale != 1 and not swept:
        found.append(
            f"the primary question is data, under guidance {scale:g}: that is one method's choice "
            "unless every variant has a sweep of its own; ask imitation first"
        )
    elastic = [v.name for v in trained if v.facts.elastic and len(v.nfes) > 1]
    others = [v for v in trained if not v.facts.elastic]
    if elastic and others and not any(v.shares > 1 for v in others):
        found.append(
            f"{', '.join(elastic)}: one budget serves all NFEs, while every other student has a "
            f"budget for each of {len(config.nfes)}; no row has the budget split: split_budget=true"
        )
    return found


def _brief(plan: Plan) -> list[str]:
    """How long a teacher that the run trains itself is trained, where that is not long."""
    training = plan.teacher.training(plan.dataset) if plan.teacher and plan.dataset else None
    if training is None or plan.dataset is None or training.budget.unit != "images":
        return []
    epochs = training.budget.amount / max(len(plan.dataset.training_rows), 1)
    budget = plan.config.budget
    if epochs > ENOUGH:
        return []
    return [
        f"the teacher is trained briefly, on {training.budget.amount:,.0f} images, each seen "
        f"{epochs:.0f} times, and students for {budget.amount:,g} {budget.unit.upper()}: a first "
        "look, not a ranking of methods; teacher.images= and budget.amount= train longer"
    ]
