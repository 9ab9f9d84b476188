"""Numbers that other programs measured: what is taken, kept and refused."""

import pytest

from piflow_bench.errors import UserError
from piflow_bench.pipeline.results.elsewhere import FILE, Elsewhere, as_plain, of_run, read, take

SAMPLED = [("mine", 1), ("mine", 4), ("other", 4)]
HEAD = "variant,nfe,metric,value"


def written(folder, *lines, head=HEAD, name="given.csv"):
    path = folder / name
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return path


def test_numbers_are_kept_beside_earlier_ones_and_replace_their_like(tmp_path):
    first = written(tmp_path, "mine,4,OneIG diversity,0.229", "other,4,OneIG diversity,.116")
    take([first], tmp_path, SAMPLED)
    second = written(
        tmp_path, 'mine,4,OneIG diversity,0.3,"OneIG, 1.0",again', "mine,1,GenEval,0.7,,",
        head=f"\ufeff{HEAD},scorer,note", name="second.csv",
    )  # fmt: skip
    take([second], tmp_path, SAMPLED)
    assert of_run(tmp_path) == [
        Elsewhere("mine", 1, "GenEval", 0.7),
        Elsewhere("mine", 4, "OneIG diversity", 0.3, "OneIG, 1.0", "again"),
        Elsewhere("other", 4, "OneIG diversity", 0.116),
    ]
    assert as_plain(of_run(tmp_path))[0]["metric"] == "GenEval"


REFUSED = {
    "no rows": ([], HEAD, "has no rows; a line is variant,nfe,metric,value"),
    "no column": (["mine,4,0.2"], "variant,nfe,value", "has no column 'metric'"),
    "another column": (["mine,4,a,1,2"], f"{HEAD},vlaue", "column 'vlaue'"),
    "too many": (["mine,4,a,1,2"], HEAD, "column 'None'"),
    "text": (["mine,4,a,good"], HEAD, "line 2: nfe and value must be numbers"),
    "half an evaluation": (["mine,4.5,a,1"], HEAD, "line 2: nfe and value must be numbers"),
    "nan": (["mine,4,a,nan"], HEAD, "line 2: value=nan: must be finite"),
    "nothing": (["mine,4,,1"], HEAD, "line 2: metric is empty"),
    "short": (["mine,4"], HEAD, "line 2: metric is empty"),
    "twice": (["mine,4,a,1", "mine,4,a,2"], HEAD, "line 3: a second a of mine at 4 NFE"),
    "a typing error": (["mien,4,a,1"], HEAD, "mien: no variant of this run; .*mine"),
    "another NFE": (["other,1,a,1"], HEAD, "other at 1 NFE: was sampled at 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_of_the_run_is_one_line_and_keeps_nothing(case, tmp_path):
    lines, head, words = REFUSED[case]
    good = written(tmp_path, "mine,4,a,1", name="good.csv")
    path = written(tmp_path, *lines, head=head)
    with pytest.raises(UserError, match=f"elsewhere=.*given.csv: {words}") as error:
        take([good, path], tmp_path, SAMPLED)
    assert "\n" not in str(error.value) and not (tmp_path / FILE).exists()


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.csv", "elsewhere=none.csv")
    (tmp_path / "picture.png").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="cannot be read as csv"):
        read(tmp_path / "picture.png", "elsewhere=picture.png")
