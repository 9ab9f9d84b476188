"""The command line: exit codes, literal paths, sweeps, what is printed."""

import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest

from piflow_bench import registry
from piflow_bench.cli import main
from piflow_bench.pipeline.plan import refusals, world
from piflow_bench.pipeline.runtime import Runtime
from tests.pipeline.harness import bits
from tests.stripes import class_folders

TINY = (
    "profile=smoke",
    "launcher=debug",
    "only=[teacher-euler]",
    "protocol.reference_samples=40",
    "protocol.samples=40",
)
METHOD = """
from piflow_methods.kd import KD


class Mine(KD):
    "A method of my own."
"""


class TestParsing:
    @pytest.mark.parametrize("arguments", [[], ["rum"], ["run", "--plam"], ["new", "metod", "x"]])
    def test_unknown_verbs_and_flags(self, arguments, capsys):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert "usage" in capsys.readouterr().err

    @pytest.mark.parametrize("place", [1, 2, 3])
    def test_flags_stand_anywhere(self, place, capsys):
        arguments = ["run", *TINY[:2]]
        arguments.insert(place, "--plan")
        assert main(arguments) == 0
        assert "stages to do" in capsys.readouterr().out

    def test_list_of_something_else(self, capsys):
        assert main(["list", "method"]) == 2
        assert "'methods'" in capsys.readouterr().err

    def test_report_of_no_run(self, capsys, tmp_path):
        assert main(["report", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert str(tmp_path) in error
        assert "results.parquet" in error


class TestList:
    def test_names_everything(self, capsys):
        assert main(["list"]) == 0
        out = capsys.readouterr().out
        for name in ("piflow", "meanflow", "dmd2", "kd", "teacher", "digits", "digits_full"):
            assert name in out

    def test_verbose_tells_facts(self, capsys):
        assert main(["list", "methods", "--verbose"]) == 0
        assert "arXiv" in capsys.readouterr().out


class TestPlan:
    def test_computes_and_writes_nothing(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["run", "--plan", "profile=smoke"]) == 0
        assert "600 tfe" in capsys.readouterr().out
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("seeds", ["[0]", "[0,1,2,3,4,5]"])
    def test_asks_as_much_for_many_stages_as_for_few(self, seeds, monkeypatch, capsys):
        """Every experiment is planned in less than three seconds of a CPU, torch's half of it."""
        asked = Counter()

        def counted(place, name):
            function = getattr(place, name)

            def call(*given, **named):
                asked[name] += 1
                return function(*given, **named)

            monkeypatch.setattr(place, name, call)

        monkeypatch.setattr(world, "_sound", {})
        monkeypatch.setattr(refusals, "network_of", lambda *_: pytest.fail("it was looked at"))
        registry._installed.cache_clear()
        counted(world, "network_of")
        counted(registry, "entry_points")
        counted(Runtime, "extractor_plugin")
        assert main(["run", "--plan", *TINY[:2], f"train_seeds={seeds}"]) == 0
        assert "stages to do" in capsys.readouterr().out
        assert asked["network_of"] == asked["entry_points"] == 1
        assert asked["extractor_plugin"] <= 12

    @pytest.mark.parametrize("experiment", ["digits", "images"])
    def test_imports_nothing_that_a_plan_has_no_use_for(self, experiment, tmp_path):
        class_folders(tmp_path / "pictures", each=10)
        folder = f"dataset.folder={tmp_path / 'pictures'}" if experiment == "images" else "aa=false"
        code = f"""
import sys
from piflow_bench.cli import main
code = main(["run", "--plan", "experiment={experiment}", {folder!r}])
heavy = ["pandas", "scipy", "sklearn", "pyarrow", "plotly", "matplotlib", "diffusers"]
heavy += ["transformers", "torchvision", "open_clip", "torch._dynamo", "torch.utils.flop_counter"]
print([name for name in heavy if name in sys.modules], code)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.stdout.splitlines()[-1:] == ["[] 0"], done.stdout[-500:] + done.stderr[-500:]

    def test_status_of_nothing(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["status", "profile=smoke"]) == 0
        assert "missing" in capsys.readouterr().out
        assert not list(tmp_path.iterdir())


class TestPaths:
    def test_spaces_brackets_commas_and_equals_signs(self, tmp_path, capsys):
        odd = tmp_path / "a b [c], d=e {f}"
        (odd / "my plugins").mkdir(parents=True)
        (odd / "my plugins" / "mine.py").write_text(METHOD)
        arguments = [
            "run",
            "profile=smoke",
            "launcher=debug",
            "only=[kd]",
            "variants.kd.method=mine",
            "budget.amount=20",
            "nfes=[1]",
            f"runs={odd / 'my runs'}",
            f"store={odd / 'my store'}",
            f"plugins={odd / 'my plugins'}",
        ]
        assert main(arguments) == 0
        folder = odd / "my runs" / "digits-smoke"
        assert capsys.readouterr().out.replace("\n", "").endswith(str(folder / "report.html"))
        table = pd.read_parquet(folder / "results.parquet")
        assert "mine" in set(table.method)
        assert (table.status == "ok").all()
        assert list((odd / "my store" / "artifacts").iterdir())
        assert sorted(p.name for p in tmp_path.iterdir()) == [odd.name]

    def test_the_store_from_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PIFLOW_BENCH_STORE", str(tmp_path / "my store"))
        assert main(["run", *TINY, "nfes=[1]", f"runs={tmp_path / 'runs'}"]) == 0
        assert list((tmp_path / "my store" / "artifacts").iterdir())
        assert not (tmp_path / "runs" / "store").exists()


class TestSweep:
    def test_each_experiment_has_its_own_folder(self, tmp_path, capsys):
        assert main(["run", *TINY, "nfes=[1],[4]", f"runs={tmp_path}"]) == 0
        for nfe in (1, 4):
            table = pd.read_parquet(tmp_path / f"digits-smoke-nfes-{nfe}" / "results.parquet")
            assert set(table[table.role == "teacher"].nfe) == {nfe}
            assert (tmp_path / f"digits-smoke-nfes-{nfe}" / "report.html").is_file()
            assert set(table.run) == {f"digits-smoke-nfes-{nfe}"}
        # The store is shared: the second experiment found the first one's references.
        assert " 0 found in the store" in capsys.readouterr().out
        assert main(["run", *TINY, "nfes=[1]", f"runs={tmp_path}"]) == 0
        assert "0 stages computed" in capsys.readouterr().out
        alone = pd.read_parquet(tmp_path / "digits-smoke" / "results.parquet")
        swept = pd.read_parquet(tmp_path / "digits-smoke-nfes-1" / "results.parquet")
        swept["experiment"] = "digits"
        assert bits(alone) == bits(swept)


def test_a_mistake_has_exit_code_2_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "piflow_bench", "run", "experiment=digitz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: experiment=digitz: no such experiment; did you mean 'digits'?\n"
    assert not list(tmp_path.iterdir())


def test_a_bug_has_exit_code_1_and_a_traceback(tmp_path):
    code = (
        "import piflow_bench.commands.list as listing, sys\n"
        "listing.find = lambda *_: 1 / 0\n"
        "from piflow_bench.cli import main\n"
        "sys.exit(main(['list']))"
    )
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
