"""Python looks for no garbage while it imports, nor at the end of a program."""

import gc
import subprocess
import sys

import pytest

from piflow_bench.garbage import kept


@pytest.fixture(autouse=True)
def nothing_frozen():
    """As in a program that began: tests have frozen their imports."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


def test_nothing_is_looked_for_meanwhile_and_all_is_afterwards():
    looked = []

    def note(phase, info):
        looked.append(phase)

    gc.callbacks.append(note)
    try:
        with kept():
            many = [[] for _ in range(5000)]
            assert looked == [] and not gc.isenabled()
        del many
        assert looked == [] and gc.isenabled()
        gc.collect()
        assert looked == ["start", "stop"]
    finally:
        gc.callbacks.remove(note)


def test_garbage_that_was_made_meanwhile_is_found_later():
    class Ring:
        gone = []

        def __del__(self):
            self.gone.append(True)

    with kept():
        ring = Ring()
        ring.itself = ring
        del ring
    assert gc.get_freeze_count() == 0 and Ring.gone == []
    gc.collect()
    assert Ring.gone == [True]


def test_who_looks_for_none_and_what_is_frozen_stay_as_they_were():
    gc.disable()
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with pytest.raises(ZeroDivisionError), kept():
            _ = 1 / 0
        assert not gc.isenabled() and gc.get_freeze_count() >= frozen > 0
    finally:
        gc.unfreeze()
        gc.enable()


@pytest.mark.parametrize("how", ["['list']", ""])
def test_a_program_leaves_its_modules_at_exit_and_who_calls_main_keeps_theirs(how):
    code = (
        "import atexit, gc, sys\n"  # What is registered first is called last.
        "atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0))\n"
        "sys.argv = ['piflow_bench', 'list']\n"
        "from piflow_bench import cli\n"
        f"cli.main({how})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"frozen {not how}", done.stderr
