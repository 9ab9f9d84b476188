"""Shared by all tests: few threads and the longest files first, for two processes side by side."""

import os

# Before anything imports Triton, whose own library is built for the interpreter or not at all.
os.environ.setdefault("TRITON_INTERPRET", "1")

import torch

torch.set_num_threads(1)

LONGEST = ("slurm/test_slurm.py", "pipeline/test_imagenet.py", "pipeline/test_processes.py")


def pytest_configure(config):
    """Let files be given out in the order below, not by their number of tests."""
    if hasattr(config.option, "loadscopereorder"):  # Only where pytest-xdist is.
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files first: the others fill the second process until all end together."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))
