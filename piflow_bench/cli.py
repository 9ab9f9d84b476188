"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piflow_bench.config import ExperimentConfig

OK, BUG, USER_ERROR, FAILED_CELLS, CHECK_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130

SETTINGS = "key=value settings; `show` prints them all"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m piflow_bench",
        description="Which few-step generator gives the best quality and diversity at N network "
        "evaluations, for the same teacher, budget and evaluation?",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text)

    run = verb("run", "run an experiment; only what is missing is computed")
    run.add_argument("--plan", action="store_true", help="print the stages; compute nothing")
    run.add_argument(
        "--detach", action="store_true", help="with launcher=slurm: submit the jobs and return"
    )
    run.add_argument(
        "--force",
        action="store_true",
        help="make anew what another source of an installed method made",
    )
    run.add_argument("settings", nargs="*", help=SETTINGS)

    status = verb("status", "what is done, running and missing of an experiment")
    status.add_argument("--watch", action="store_true", help="refresh until all is done")
    status.add_argument("settings", nargs="*", help=SETTINGS)

    cancel = verb("cancel", "cancel the Slurm jobs of an experiment, and no others")
    cancel.add_argument("settings", nargs="*", help=SETTINGS)

    show = verb("show", "print a method's settings and facts, or the composed configuration")
    show.add_argument("settings", nargs="*", help="METHOD, or experiment=NAME and key=value")

    store = verb("store", "what a store holds and who uses it; whether it is whole; what can go")
    parts = store.add_subparsers(dest="what", metavar="ls | verify | gc", required=True)
    places = "store=PATH, runs=PATH"
    ls = parts.add_parser("ls", help="sizes by kind and by run")
    ls.add_argument(
        "--verbose", action="store_true", help="every artifact, what it is, who uses it"
    )
    ls.add_argument("settings", nargs="*", help=places)
    whole = parts.add_parser("verify", help="recompute all digests; exit code 4 if one differs")
    whole.add_argument("settings", nargs="*", help=places)
    gc = parts.add_parser("gc", help="what no run uses")
    gc.add_argument("--delete", action="store_true", help="remove it; otherwise it is only named")
    gc.add_argument("settings", nargs="*", help=f"{places}, days=7: what is younger stays")

    report = verb("report", "make the HTML report and the exports of finished runs")
    report.add_argument(
        "--diff",
        action="store_true",
        help="of two runs, OLD NEW: what changed beyond noise; exit code 4 if something is worse",
    )
    report.add_argument(
        "--watch",
        action="store_true",
        help="of a run that goes on: a page that refreshes itself, until the run ends",
    )
    report.add_argument(
        "--figures",
        action="store_true",
        help="also write every figure as SVG and PNG, by kaleido and an installed Chromium",
    )
    report.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of runs or scores, or out=PATH"
    )

    evaluate = verb("evaluate", "score samples you have against a reference")
    evaluate.add_argument(
        "settings",
        nargs="+",
        help="samples=PATH (of several sets [PATH,PATH], or a pattern) reference=PATH "
        "[protocol=NAME] [extractor=NAME] "
        "[extractor.weights=FILE] [metrics=[a,b]] [per_class=[a,b]] [labels=FILE] [n=N or [N,M]] "
        "[teacher=PATH] [prompts=FILE] [lpips.weights=FILE] [clip.weights=FILE] [device=cpu] "
        "[precision=float32] [compiled=false] [workers=2] [processes=1] [batch=N] [out=FOLDER] "
        "[store=PATH] [cache=true] [statistics=FILE to write], and settings of the metrics",
    )

    listing = verb("list", "list plugins and experiments")
    listing.add_argument("--verbose", action="store_true", help="import plugins: facts and errors")
    listing.add_argument(
        "what",
        nargs="*",
        help="methods | datasets | experiments | extractors | protocols (default: all these) | "
        "metrics, plugins=PATH[,PATH]",
    )

    check = verb("check", "run the contract's tests on a method plugin")
    check.add_argument("method", help="name of the method")
    check.add_argument("settings", nargs="*", help="settings of the method, plugins=PATH[,PATH]")

    new = verb("new", "write a method plugin that passes `check`, to start from")
    new.add_argument("kind", choices=["method"])
    new.add_argument("name", help="name of the method: letters, digits and _")
    new.add_argument("settings", nargs="*", help="out=FOLDER (default: the current folder)")

    prepare = verb("prepare", "make what a dataset is read from: latents, or shipped weights")
    prepare.add_argument("dataset", choices=["digits", "imagenet"])
    prepare.add_argument(
        "settings",
        nargs="*",
        help="digits: out=FOLDER. imagenet: source=FOLDER_TAR_OR_PARQUET out=FOLDER "
        "[autoencoder=PATH] [size=256] [kind=mean-std | sample] [flip=true] [dtype=float16] "
        "[classes=1000] [shard=10000] [batch=32] [device=cuda] [processes=1] "
        "[skip_corrupt=false] [partial=false] [seed=0] [reference=FILE.npz protocol=NAME: also the "
        "cropped images' statistics]",
    )

    doctor = verb("doctor", "what this machine lacks for an experiment, and what that would cost")
    doctor.add_argument(
        "settings", nargs="*", help=f"{SETTINGS}; price=X for the cost at X per GPU-hour"
    )
    return parser


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """Flags among the settings before all of them: argparse would not take those after."""
    first = next((i for i, a in enumerate(arguments) if "=" in a), len(arguments))
    flags = [a for a in arguments[first:] if a.startswith("-") and "=" not in a]
    rest = [a for a in arguments[first:] if a not in flags]
    return [*arguments[:first], *flags, *rest]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (0, 1 bug, 2 user, 3 failed cells, 4 check, 130)."""
    from piflow_bench.errors import UserError

    options = _parser().parse_args(_flags_first(sys.argv[1:] if arguments is None else arguments))
    # PyTorch warns of its own use of torch.jit at import; users can do nothing about it.
    warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
    try:
        return _VERBS[options.verb](options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        words = f"; {error}" if str(error) else ""
        print(f"interrupted; finished artifacts and states are kept{words}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return OK


def _run(options: argparse.Namespace) -> int:
    from piflow_bench.pipeline import repeated

    usual = not (options.plan or options.detach or options.force)
    again = repeated.unchanged(options.settings) if usual else None
    if again is not None:
        _show_again(*again)
        return OK
    from piflow_bench.config import expand
    from piflow_bench.pipeline.forecast import print_plan
    from piflow_bench.pipeline.plan import make_plan
    from piflow_bench.pipeline.runner import run_experiment, store_of

    code = OK
    found = expand(options.settings)
    configs = [config for _, config in found]
    if options.plan:
        for plan in [make_plan(config) for config in configs]:  # All are valid, or none is shown.
            print_plan(plan, store_of(plan.config))
        return OK
    _refuse_gaps(configs)
    for config in configs if len(configs) > 1 else []:
        make_plan(config)  # A mistake in any of them is refused before the first runs.
    watch = repeated.Watch(options.settings, configs[0]) if usual and len(found) == 1 else None
    for settings, config in found:
        command = shlex.join(["python", "-m", "piflow_bench", "run", *settings])
        failed = run_experiment(config, command, options.detach, options.force, watch)
        code = max(code, FAILED_CELLS if failed else OK)
    return code


def _show_again(folder: Path, stages: int) -> None:
    """What a run prints at its end when nothing was to be done."""
    from piflow_reports.terminal import print_results
    from rich.console import Console

    from piflow_bench.pipeline.repeated import tally

    console = Console()
    print_results(console, folder)
    console.print(tally(0, stages, 0, 0.0), highlight=False)
    print(folder / "report.html")


def _refuse_gaps(configs: Sequence[ExperimentConfig]) -> None:
    """UserError with the doctor's table if this machine cannot run one of the experiments."""
    from piflow_bench.commands.doctor import gaps, print_table
    from piflow_bench.errors import UserError

    for config in configs:
        lacking = gaps(config)
        if lacking:
            print_table(config.name, lacking)
            words = ", ".join(f.what for f in lacking)
            raise UserError(
                f"{config.name}: this machine lacks {words}; see the table above, `piflow_bench "
                "doctor`, or try profile=smoke"
            )


def _status(options: argparse.Namespace) -> int:
    from piflow_bench.config import compose
    from piflow_bench.pipeline.runner import show_status

    for config in compose(options.settings):
        show_status(config, watch=options.watch)
    return OK


def _cancel(options: argparse.Namespace) -> int:
    from piflow_bench.config import compose
    from piflow_bench.pipeline.runner import cancel_jobs

    for config in compose(options.settings):
        cancel_jobs(config)
    return OK


def _store(options: argparse.Namespace) -> int:
    from piflow_bench.commands import store as storing

    if options.what == "verify":
        return OK if storing.verify(options.settings) else CHECK_FAILED
    if options.what == "gc":
        storing.collect_garbage(options.settings, options.delete)
    else:
        storing.print_store(options.settings, options.verbose)
    return OK


def _show(options: argparse.Namespace) -> int:
    from piflow_bench.commands.show import print_shown

    print_shown(options.settings)
    return OK


def _report(options: argparse.Namespace) -> int:
    from piflow_bench.errors import UserError

    if options.watch:
        from piflow_reports import build

        from piflow_bench.pipeline.live import watch

        if len(options.runs) != 1:
            raise UserError("report --watch: takes the folder of one run")
        print(watch(Path(options.runs[0]), build))
        return OK
    out: Path | None = None
    folders = []
    for argument in options.runs:
        if argument.startswith("out="):
            out = Path(argument.removeprefix("out="))
            continue
        folder = Path(argument)
        if not any((folder / name).is_file() for name in ("results.parquet", "scores.parquet")):
            raise UserError(
                f"{argument}: no folder of a run (results.parquet) or of scores (scores.parquet)"
            )
        folders.append(folder)
    if not folders:
        raise UserError("report: needs at least one folder of a run or of scores")
    if options.diff:
        if len(folders) != 2 or out is not None:
            raise UserError("report --diff: takes the folders of two runs, OLD NEW")
        from piflow_reports.changes import print_changes

        return OK if print_changes(*folders) else CHECK_FAILED
    scored = [folder for folder in folders if (folder / "scores.parquet").is_file()]
    if scored:
        if len(scored) < len(folders):
            raise UserError("report: runs and scores do not share a page; name one kind")
        if options.figures:
            raise UserError("report --figures: takes folders of runs; a page of scores has none")
        from piflow_reports.scores import build_scores

        print(build_scores(scored, out))
        return OK
    from piflow_reports import build, build_many

    if len(folders) == 1:
        print(build(folders[0], out, options.figures))
    else:
        print(build_many(folders, out, options.figures))
    return OK


def _evaluate(options: argparse.Namespace) -> int:
    from piflow_bench.commands.evaluate import run_evaluate

    folder = run_evaluate(options.settings)
    if folder is not None:
        from piflow_reports.scores import build_scores
        from piflow_reports.scores_terminal import print_scores
        from rich.console import Console

        print_scores(Console(), folder)
        print(build_scores([folder], folder / "report.html"))
    return OK


def _list(options: argparse.Namespace) -> int:
    from piflow_bench.commands.list import print_list

    return print_list(options.what, verbose=options.verbose)


def _check(options: argparse.Namespace) -> int:
    from piflow_bench.config import split_paths
    from piflow_bench.conformance.suite import check_method, print_checks

    overrides, paths = split_paths(options.settings)
    results = check_method(options.method, overrides, paths.get("plugins"))
    return OK if print_checks(options.method, results) else CHECK_FAILED


def _only_out(settings: Sequence[str]) -> str | None:
    """The value of ``out=``, the one setting of some verbs."""
    from piflow_bench.config import split_paths
    from piflow_bench.errors import UserError

    overrides, paths = split_paths(settings)
    for key in [o.partition("=")[0] for o in overrides] + list(paths):
        if key != "out":
            raise UserError(f"{key}=: this verb takes out=FOLDER alone")
    return paths.get("out")


def _new(options: argparse.Namespace) -> int:
    from piflow_bench.commands.new import new_method

    print(new_method(options.name, _only_out(options.settings) or "."))
    return OK


def _prepare(options: argparse.Namespace) -> int:
    if options.dataset == "imagenet":
        from piflow_bench.commands.prepare import prepare_imagenet

        print(prepare_imagenet(options.settings))
        return OK
    from piflow_bench.pipeline.runner import prepare_digits

    prepare_digits(_only_out(options.settings))
    return OK


def _doctor(options: argparse.Namespace) -> int:
    from piflow_bench.commands.doctor import print_findings
    from piflow_bench.config import compose
    from piflow_bench.errors import UserError

    prices = [s for s in options.settings if s.startswith("price=")]
    settings = [s for s in options.settings if s not in prices]
    try:
        price = float(prices[-1].removeprefix("price=")) if prices else None
    except ValueError as error:
        raise UserError(f"{prices[-1]}: must be a number, per GPU-hour") from error
    whole = [print_findings(config, price) for config in compose(settings)]
    return OK if all(whole) else CHECK_FAILED


_VERBS = {
    "run": _run,
    "status": _status,
    "cancel": _cancel,
    "store": _store,
    "show": _show,
    "report": _report,
    "evaluate": _evaluate,
    "list": _list,
    "check": _check,
    "new": _new,
    "prepare": _prepare,
    "doctor": _doctor,
}
