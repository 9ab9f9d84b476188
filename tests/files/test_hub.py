"""Addresses on the hub, with its cache in place of a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import in_cache, local_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path):
    """A hub cache as the client lays it out, with one repository in it."""
    folder = tmp_path / "hub" / "models--someone--students"
    snapshot = folder / "snapshots" / COMMIT
    (snapshot / "gm_1step").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (snapshot / "gm_1step" / "config.json").write_text("{}")
    (snapshot / "teacher.pth").write_text("weights")
    return tmp_path / "hub"


def ask(cache, source, function="local_path"):
    """In a process of its own: the client reads its settings at import."""
    code = f"from piflow_bench.files.hub import {function} as f; print(f({source!r}))"
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize(
    "source, end",
    [
        ("hf://someone/students/teacher.pth", "teacher.pth"),
        (f"hf://someone/students/teacher.pth@{COMMIT}", "teacher.pth"),
        ("hf://someone/students/gm_1step", "gm_1step"),
        (f"hf://someone/students@{COMMIT}", COMMIT),
    ],
)
def test_files_and_folders_come_from_the_cache_when_offline(cache, source, end):
    for function in ("local_path", "in_cache"):
        result = ask(cache, source, function)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip().endswith(end)


def test_what_cannot_be_had_is_one_line(cache):
    result = ask(cache, "hf://someone/students/other.pth")
    last = result.stderr.strip().splitlines()[-1]
    assert "other.pth" in last and "give its local path" in last
    assert ask(cache, "hf://someone/else", "in_cache").stdout.strip() == "None"


def test_paths_and_addresses_are_checked(tmp_path):
    assert local_path(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match=r"teacher=/no/file: no such file"):
        local_path("/no/file", "teacher")
    with pytest.raises(UserError, match="hf://owner/name"):
        local_path("hf://justone")
    assert in_cache("hf://justone") is None and in_cache("/no/file") is None


def test_digest_sees_contents_and_names(tmp_path):
    file = tmp_path / "a"
    file.write_text("x")
    first = digest(file)
    assert first == digest(file) and len(first) == 64
    whole = digest(tmp_path)
    file.rename(tmp_path / "b")
    assert digest(tmp_path / "b") == first and digest(tmp_path) != whole
    (tmp_path / "b").write_text("y")
    assert digest(tmp_path / "b") != first


class TestPackages:
    """What an installed package brings along: `package://NAME/PATH`."""

    def test_a_file_and_a_folder_of_one(self):
        import piflow_experiments

        root = Path(piflow_experiments.__file__).parent
        assert local_path("package://piflow_experiments/config.yaml") == root / "config.yaml"
        assert local_path("package://piflow_experiments/dataset") == root / "dataset"
        assert in_cache("package://piflow_experiments/config.yaml") == root / "config.yaml"

    @pytest.mark.parametrize(
        "address", ["package://none_such/x", "package://piflow_experiments/none", "package://a-b/x"]
    )
    def test_what_is_not_there_is_one_line(self, address):
        with pytest.raises(UserError, match=f"teacher={address}: no such file or folder"):
            local_path(address, "teacher")
        assert in_cache(address) is None
