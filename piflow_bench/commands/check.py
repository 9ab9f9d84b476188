"""`check`: the contract's tests on a plugin."""

from __future__ import annotations

import argparse

from piflow_bench.errors import CHECK_FAILED, OK


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("method", help="name of the method")
    parser.add_argument("settings", nargs="*", help="settings of the method, plugins=PATH[,PATH]")


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from piflow_bench.config.paths import split_paths
    from piflow_bench.conformance.suite import check_method, print_checks

    overrides, paths = split_paths(options.settings)
    results = check_method(options.method, overrides, paths.get("plugins"))
    return OK if print_checks(options.method, results) else CHECK_FAILED
