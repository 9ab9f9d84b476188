"""Peak memory: what is taken and given back in between counts, what was there before does not."""

import math
import os
import subprocess
import sys
from textwrap import dedent

import pytest
import torch

from piflow_bench.costs.memory import PeakMemory

MEGA = 2**20


def measured(work):
    """MiB that lines of Python print, in a process where nothing else comes and goes."""
    before = (
        "import torch\nfrom piflow_bench.costs.memory import PeakMemory\ntorch.set_num_threads(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", before + dedent(work)], capture_output=True, text=True, check=True
    )
    found = [float(line) / MEGA for line in done.stdout.split()]
    if any(map(math.isnan, found)):
        pytest.skip("this system does not tell a process's peak")
    return found


def test_what_is_taken_counts_though_it_is_given_back():
    (peak,) = measured(f"""
        memory = PeakMemory()
        block = torch.ones(100 * {MEGA})
        del block
        print(memory.read())
    """)
    assert peak == pytest.approx(400, rel=0.2)


def test_what_was_there_before_does_not_count():
    at_first, peak = measured(f"""
        before = torch.ones(100 * {MEGA})
        memory = PeakMemory()
        print(memory.read())
        block = torch.ones(25 * {MEGA})
        print(memory.read())
    """)
    assert at_first < 40
    assert peak == pytest.approx(100, rel=0.4)


def test_what_earlier_work_freed_counts_when_it_is_taken_again():
    """Small blocks stay with the allocator: the trainings of one process would seem free."""
    (peak,) = measured("""
        def work(blocks):
            held = [torch.ones(8000) for _ in range(blocks)]
        work(6000)
        memory = PeakMemory()
        work(1500)
        print(memory.read())
    """)
    assert peak == pytest.approx(1500 * 32000 / 2**20, rel=0.2)


@pytest.mark.parametrize("clear", ["no/such/file", "ignored"])
def test_unknown_where_an_older_peak_cannot_be_forgotten(monkeypatch, tmp_path, clear):
    (tmp_path / "ignored").touch()
    monkeypatch.setattr("piflow_bench.costs.memory.CLEAR", tmp_path / clear)
    block = torch.ones(100 * MEGA)
    del block
    assert math.isnan(PeakMemory().read())


def test_freed_memory_is_kept_for_the_next_tensors():
    """Counts pages that the system had to hand out, before and after; before, none is kept."""
    script = f"""
        import resource
        import torch
        from piflow_bench.costs.memory import keep_freed
        def pages():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                one, two = torch.ones(2 * {MEGA}), torch.ones(2 * {MEGA})
                del one, two
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        print(pages())
        keep_freed()
        pages()
        print(pages())
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    fresh, kept = map(int, done.stdout.split())
    assert kept < fresh / 10
