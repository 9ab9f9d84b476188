"""Every kind of stage, by its name."""

from __future__ import annotations

from piflow_bench.pipeline.stage import Task
from piflow_bench.pipeline.stages.breakdown import BreakDown
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.stages.features import Describe, DescribeReference
from piflow_bench.pipeline.stages.metrics import Measure, Partition
from piflow_bench.pipeline.stages.published import Publish
from piflow_bench.pipeline.stages.samples import Converge, Draw, Sample
from piflow_bench.pipeline.stages.scores import ScoreSamples
from piflow_bench.pipeline.stages.selection import Select
from piflow_bench.pipeline.stages.teacher import CheckTeacher, EncodeText, MakeTeacher, TrainTeacher
from piflow_bench.pipeline.stages.within import Within

KINDS: dict[str, type[Task]] = {
    task.kind: task
    for task in (
        MakeTeacher,
        TrainTeacher,
        CheckTeacher,
        EncodeText,
        Converge,
        Draw,
        Distill,
        Publish,
        Sample,
        Describe,
        DescribeReference,
        Measure,
        Partition,
        ScoreSamples,
        BreakDown,
        Select,
        Within,
    )
}
