"""Shared by all tests: one thread each, the longest files first, and which of them are slow."""

import os

# Before anything imports Triton, whose own library is built for the interpreter or not at all.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Before anything imports numpy or torch, here and in every process that a test starts: the tests'
# own processes share two cores, and threads that wait for each other cost a quarter of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys

import pytest
import torch

torch.set_num_threads(1)

SLOW = (
    "slurm/test_slurm.py",
    "pipeline/test_imagenet.py",
    "pipeline/launchers/test_torchrun.py",
    "pipeline/launchers/test_local.py",
    "preparation/test_prepare.py",
    "evaluation/test_fashion.py",
    "reports/test_first_screen.py",
    "pipeline/test_fashion_experiment.py",
    "evaluation/test_coverage.py",
    "test_docs.py",
    "reports/test_verdict_truth.py",
    "reports/test_accessibility.py",
    "pipeline/test_images.py",
    "pipeline/test_kill.py",
    "pipeline/test_own_teacher.py",
    "conformance/method/test_suite.py",
    "preparation/test_imagenet.py",
    "test_runs.py",
    "evaluation/test_torch_fidelity.py",
    "pipeline/test_live.py",
    "reports/test_large.py",
    "pipeline/test_disk_full.py",
    "pipeline/test_split_budget.py",
    "reports/test_damaged.py",
    "pipeline/test_repeated.py",
    "training/test_events.py",
    "conformance/test_teacher.py",
    "pipeline/test_no_weights.py",
    "test_machine.py",
    "packaging/test_install.py",
    "reports/test_browser.py",
    "pipeline/test_keys.py",
    "reports/test_page.py",
    "evaluation/test_extraction.py",
    "pipeline/test_closer.py",
    "test_cli.py",
    "reports/test_scores_page.py",
    "reports/test_stills.py",
    "reports/test_browser_state.py",
    "test_notebook.py",
    "evaluation/test_extractors.py",
    "costs/test_memory.py",
    "reports/test_changes.py",
    "training/test_shipped.py",
    "simulations/test_intervals.py",
    "methods/test_pairs.py",
    "reports/test_names.py",
    "pipeline/test_commit.py",
    "pipeline/test_plugin_sources.py",
    "reports/test_hostile.py",
    "pipeline/test_paths_in_keys.py",
)
"""Files whose tests take about a second each or more, the longest in all first."""


def pytest_configure(config):
    """Let files be given out in the order below, not by their number of tests."""
    if hasattr(config.option, "loadscopereorder"):  # Only where pytest-xdist is.
        config.option.loadscopereorder = False


def pytest_itemcollected(item):
    """Before tests are chosen by their marks."""
    if _rank(item) < len(SLOW):
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(items):
    """The longest files first: the others fill the second process until all end together."""
    items.sort(key=_rank)


def _rank(item):
    path = item.path.as_posix()
    return next((i for i, name in enumerate(SLOW) if path.endswith(f"/tests/{name}")), len(SLOW))


@pytest.fixture(autouse=True)
def _plugins_of_the_test_alone():
    """What a command in the tests' own process was given as ``plugins=`` is forgotten after it."""
    yield
    metrics = sys.modules.get("piflow_bench.evaluation.metrics.metric")
    if metrics is not None:
        metrics.use_plugins(())
