"""What a job asks for: by kind of stage, by variant, and what no job could."""

import pytest

from piflow_bench.config.schema import LauncherConfig
from piflow_bench.errors import UserError
from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers.slurm.settings import Cluster, check_resources, cluster_of
from tests.pipeline.tasks import stage_of

LAUNCHER = LauncherConfig(minutes=10, gpus=4, nodes=2, cpus=3)


def asked(kind, launcher=LAUNCHER, base="kd", processes=1):
    return Cluster(launcher, processes).of(stage_of(kind, about={"base": base}))


@pytest.mark.parametrize(
    "kind, gpus, nodes",
    [("distill", 4, 2), ("train_teacher", 4, 2), ("sample", 1, 1), ("metrics", 0, 1)],
)
def test_trainings_get_all_networks_one_gpu_and_the_others_none(kind, gpus, nodes):
    found = asked(kind)
    assert (found.gpus, found.nodes, found.minutes, found.cpus) == (gpus, nodes, 10, 3)
    assert asked(kind, LauncherConfig()).gpus == 0


def test_a_variants_resources_come_before_its_kinds_and_are_of_trainings_alone():
    launcher = LauncherConfig(
        minutes=10,
        stages={"distill": {"minutes": 20, "cpus": 5}, "sample": {"gpus": 2}},
        variants={"kd": {"minutes": 30}},
    )
    found = asked("distill", launcher)
    assert (found.minutes, found.cpus) == (30, 5)
    assert asked("distill", launcher, base="other").minutes == 20
    assert (asked("sample", launcher).minutes, asked("sample", launcher).gpus) == (10, 2)


def test_options_are_words_and_those_that_are_off_are_left_out():
    launcher = LauncherConfig(extra={"b": 3, "a": True, "off": False})
    assert asked("draw", launcher).extra == {"a": True, "b": "3"}
    assert list(asked("draw", launcher).extra) == ["a", "b"]


def test_only_a_training_has_several_processes():
    cluster = Cluster(LAUNCHER, 4)
    assert cluster.processes_of(stage_of("distill")) == 4
    assert cluster.processes_of(stage_of("sample", method="kd")) == 1


@pytest.mark.parametrize(
    "given, words",
    [
        ({"stages": {"distil": {}}}, "launcher.stages.distil: no such stage; did you mean 'dist"),
        ({"variants": {"kdd": {}}}, "launcher.variants.kdd: no such variant; did you mean 'kd'"),
        ({"stages": {"draw": 60}},
         "launcher.stages.draw=60: resources are given as launcher.stages.draw.minutes=60"),
        ({"stages": {"draw": {"minutes": 0}}}, "launcher.stages.draw.minutes=0"),
        ({"variants": {"kd": {"minute": 5}}}, "launcher.variants.kd.minute"),
    ],
)  # fmt: skip
def test_what_no_job_could_ask_for_is_refused_in_one_line(given, words):
    with pytest.raises(UserError) as error:
        check_resources(LauncherConfig(**given), ["kd", "dmd2"])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_there_is_passes():
    launcher = LauncherConfig(stages={kind: {"minutes": 5} for kind in KINDS},
                              variants={"kd": {"gpus": 1}})  # fmt: skip
    check_resources(launcher, ["kd"])


def test_processes_have_a_gpu_each():
    assert cluster_of(LAUNCHER, 4, on_gpus=True).processes == 4
    with pytest.raises(UserError, match=r"^launcher\.gpus=4: scale\.device=cuda trains with 5 "
                       r"processes on a node, a GPU each; set launcher\.gpus=5$"):  # fmt: skip
        cluster_of(LAUNCHER, 5, on_gpus=True)
    assert cluster_of(LAUNCHER, 5).processes == 5
