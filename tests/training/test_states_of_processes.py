"""Several processes that go on from one state: they decide together, whatever each of them sees."""

import errno
import json
import shutil
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from piflow_bench.training import loop, state
from piflow_bench.training.distributed import leave_group
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget
from piflow_bench.training.trainer import Trainer
from tests.training.test_loop import FLOAT64, equal, in_two_processes, parts, run

PLACE = "trainings"
STEPS = 3
BUDGET = Budget("images", 6 * 8, (0.5, 1.0))


@contextmanager
def fails(place, name, error):
    """A method of reading fails, or gives what it must not, of the trainings' files alone."""
    original = getattr(place, name)

    def call(self, *args, **kwargs):
        if PLACE in str(getattr(self, "path", self)):
            if isinstance(error, BaseException):
                raise error
            return error
        return original(self, *args, **kwargs)

    with mock.patch.object(place, name, call):
        yield


@contextmanager
def hidden():
    """What another machine wrote is not seen yet."""
    with fails(Path, "is_file", False), fails(Path, "read_text", FileNotFoundError("facts")):
        yield


def torn():
    return fails(Path, "read_text", json.JSONDecodeError("torn", "", 0))


def no_answer():
    return fails(Path, "read_text", OSError(errno.EIO, "Input/output error"))


def no_metadata():
    from torch.distributed.checkpoint import FileSystemReader

    return fails(FileSystemReader, "read_metadata", FileNotFoundError(".metadata"))


SEEN = {
    # case: (what the processes see, what becomes of them all)
    "all is seen": ((None, None), "went on"),
    "the second sees no state": ((None, hidden), "left it"),
    "the second has torn facts": ((None, torn), "left it"),
    "the second has no metadata": ((None, no_metadata), "left it"),
    "the second's disk does not answer": ((None, no_answer), "left it"),
    "the first's disk does not answer": ((no_answer, None), "left it"),
    "the first sees no state": ((hidden, None), "began"),
    "the first has torn facts": ((torn, None), "unusable"),
    "both have torn facts": ((torn, torn), "unusable"),
}
HARMED = ["__0_0.distcp", "__1_0.distcp"]


def join(rank, world, port):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=30),  # Who waits for another in vain fails.
    )


def trainer(parallel):
    return Trainer(*parts("piflow"), FLOAT64, BUDGET, 3, Scale(parallel=parallel))


def outcome(folder):
    made = trainer("ddp")
    try:
        return "went on" if state.load(made, folder) and made.step == STEPS else "began"
    except state.Unusable:
        return "unusable"
    except BaseException as error:
        return "left it" if "Timeout" not in str(error) else "waited in vain"


def _processes(rank, world, folder, port):
    """All cases one after the other: states, what is seen of them, and whole trainings."""
    join(rank, world, port)
    folder, found = Path(folder), {}
    for parallel in ("ddp", "fsdp"):
        made = trainer(parallel)
        for _ in range(STEPS):
            made.run_step()
        (folder / parallel).mkdir(exist_ok=True)
        state.save(made, folder / parallel)
    for case, (seen, _) in SEEN.items():
        with (seen[rank] or mock.MagicMock)():
            found[case] = outcome(folder / "ddp")
    for parallel in ("ddp", "fsdp"):
        for file in HARMED:
            place, told = folder / f"{parallel} {file}", []
            if rank == 0:
                shutil.copytree(folder / parallel, place)
                harmed = place / "state" / "tensors" / file
                harmed.write_bytes(harmed.read_bytes()[: harmed.stat().st_size // 2])
            torch.distributed.barrier()
            run("piflow", place, 6, FLOAT64, scale=Scale(parallel=parallel), anew=told.append)
            found[place.name] = told
    place = folder / "ddp"
    if rank == 0:
        (place / loop.CHECKPOINTS_FILE).write_text('[{"step": 6}]')
    torch.distributed.barrier()
    with fails(Path, "exists", False) if rank else mock.MagicMock():
        found["finished"] = loop.train(*parts("piflow"), FLOAT64, BUDGET, 3, place)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    leave_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both processes made of every case."""
    folder = tmp_path_factory.mktemp(PLACE)
    in_two_processes(_processes, folder)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("case", SEEN)
def test_processes_agree_on_what_they_see(case, found):
    _, processes = found
    assert [each[case] for each in processes] == [SEEN[case][1]] * 2


@pytest.mark.parametrize("file", HARMED)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_damaged_part_of_any_process_begins_all_of_them_anew(parallel, file, found, tmp_path):
    folder, processes = found
    name = f"{parallel} {file}"
    (told,), others = processes[0][name], processes[1][name]
    assert "cannot be" in told and others == [], "the first process tells of it"
    _, weights = run("piflow", tmp_path, 6, FLOAT64)
    equal(weights[-1], load_file(folder / name / "checkpoint_1.safetensors"), tolerance=1e-9)


def test_a_training_that_the_first_process_finds_finished_is_finished(found):
    folder, processes = found
    assert [each["finished"] for each in processes] == [[{"step": 6}]] * 2
    assert not (folder / "ddp" / "state").exists()
