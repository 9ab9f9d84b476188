"""A worker's BLAS takes its share of the cores, torch what is asked."""

import json
import os
import subprocess
import sys
from textwrap import dedent

import pytest

from piflow_bench.threads import VARIABLE
from piflow_bench.threads import cores as cores_here

SCRIPT = """
    import json, os
    from unittest import mock
    from piflow_bench.threads import use_threads
    with mock.patch("os.sched_getaffinity", return_value=set(range({cores}))):
        use_threads({threads}, {workers})
    import scipy.linalg
    import torch
    from threadpoolctl import threadpool_info
    blas = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
    print(json.dumps([torch.get_num_threads(), blas]))
"""


@pytest.mark.parametrize(
    "cores, threads, workers, share", [(2, 1, 2, 1), (4, 1, 2, 2), (2, 2, 2, 2), (1, 1, 3, 1)]
)
def test_libraries_loaded_before_and_after_share_the_cores(cores, threads, workers, share):
    if share > cores_here():
        pytest.skip("fewer cores than the case has")
    script = dedent(SCRIPT.format(cores=cores, threads=threads, workers=workers))
    here, blas = run(script)
    assert here == threads and blas and set(blas) == {share}


def test_a_process_that_is_bound_to_one_core_has_one():
    script = """
        import os
        from piflow_bench.threads import cores
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
        print(cores())
    """
    assert run(dedent(script)) == 1


def test_what_a_user_says_of_the_blas_stands():
    script = dedent(SCRIPT.format(cores=4, threads=2, workers=1))
    here, blas = run(script, OPENBLAS_NUM_THREADS="1")
    assert here == 2 and set(blas) == {1}


def run(script, **variables):
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | variables
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(told.stdout)
