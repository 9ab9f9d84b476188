"""Shared by all tests: one thread each, the longest files first, and which of them are slow."""

import gc
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
    "pipeline/test_text_to_image.py",
    "pipeline/test_imagenet.py",
    "test_docs.py",
    "pipeline/launchers/test_local.py",
    "pipeline/test_images.py",
    "test_runs.py",
    "reports/test_verdict_truth.py",
    "conformance/method/test_suite.py",
    "reports/test_first_screen.py",
    "training/test_loop.py",
    "reports/test_accessibility.py",
    "pipeline/launchers/test_torchrun.py",
    "pipeline/test_closer.py",
    "evaluation/test_fashion.py",
    "pipeline/test_disk_full.py",
    "pipeline/test_kill.py",
    "reports/test_page.py",
    "evaluation/test_coverage.py",
    "reports/test_changes.py",
    "preparation/test_prepare.py",
    "training/test_shipped.py",
    "simulations/test_prompts.py",
    "training/test_shared_base.py",
    "pipeline/test_run_folder.py",
    "pipeline/test_fashion_experiment.py",
    "reports/test_large.py",
    "reports/test_browser.py",
    "reports/test_damaged.py",
    "evaluation/test_torch_fidelity.py",
    "pipeline/test_repeated.py",
    "reports/test_browser_state.py",
    "training/test_events.py",
    "simulations/test_intervals.py",
    "tuning/test_tune.py",
    "conformance/test_teacher.py",
    "test_cli.py",
    "pipeline/test_live.py",
    "pipeline/test_commit.py",
    "evaluation/test_extraction.py",
    "reports/test_stills.py",
    "reports/test_scores_page.py",
    "test_notebook.py",
    "reports/test_names.py",
    "reports/test_scores.py",
    "pipeline/test_keys.py",
    "methods/test_pairs.py",
    "costs/test_memory.py",
    "pipeline/test_split_budget.py",
    "evaluation/test_extractors.py",
    "reports/test_hostile.py",
    "pipeline/test_own_teacher.py",
    "pipeline/test_no_weights.py",
    "pipeline/test_plugin_sources.py",
    "test_machine.py",
    "preparation/test_imagenet.py",
    "packaging/test_install.py",
    "pipeline/test_paths_in_keys.py",
)
"""Files whose tests take about a second each or more, the longest in all first."""


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="also tests marked thorough")


def pytest_configure(config):
    """Let files be given out in the order below, not by their number of tests."""
    if hasattr(config.option, "loadscopereorder"):  # Only where pytest-xdist is.
        config.option.loadscopereorder = False


def pytest_itemcollected(item):
    """Before tests are chosen by their marks."""
    if _rank(item) < len(SLOW):
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(config, items):
    """The longest files first: the others fill the second process until all end together."""
    items.sort(key=_rank)
    if not config.getoption("thorough") and not any("::" in name for name in config.args):
        left = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


def pytest_collection_finish():
    """Half a million objects of imports are no garbage; to look through them took 8 % of all."""
    gc.collect()
    gc.freeze()


def _rank(item):
    path = item.path.as_posix()
    return next((i for i, name in enumerate(SLOW) if path.endswith(f"/tests/{name}")), len(SLOW))


@pytest.fixture(autouse=True)
def _the_same_draws_each_time():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _plugins_of_the_test_alone():
    """What a command in the tests' own process was given as ``plugins=`` is forgotten after it."""
    yield
    metrics = sys.modules.get("piflow_bench.evaluation.metrics.metric")
    if metrics is not None:
        metrics.use_plugins(())
