"""Ways of sampling that are chosen on one half of the data, and what came of it on the other.

A variant that was sampled in several ways, or trained for several guidance scales in runs of their
own, gets at each NFE the way whose samples are nearest to the first half; what is shown of it is
measured on samples and data that the choice never saw.
"""

from __future__ import annotations

import pandas as pd
from piflow_reports.data.run import Run
from piflow_reports.data.series import Primary, both_sides, measured, select

from piflow_bench.evaluation.protocols import HALVES


def bases(run: Run) -> dict[str, str]:
    """The name that each variant has in its experiment, of those of several runs too."""
    return {
        str(v.get("name")): str(v.get("label") or v.get("name"))
        for v in run.info.get("variants") or []
    }


def chosen(summary: pd.DataFrame, primary: Primary, names: dict[str, str]) -> pd.DataFrame:
    """The primary metrics on the second half of every variant and NFE, each in its best way.

    Args:
        summary: cells at the whole budget.
        primary: its quality chooses; its question does not matter.
        names: variants by the name of all their ways, see :func:`bases`.

    Returns:
        A row for each base and NFE that has two ways or more: ``base``, ``way``, ``ways`` (how
        many there were) beside what ``both_sides`` gives.
    """
    second = both_sides(summary, primary, HALVES[1])
    rows = select(measured(summary), HALVES[0], primary.quality, primary.extractor)
    tried = rows[["series", "variant", "nfe", "role", "value", "higher"]].dropna(subset=["nfe"])
    tried = tried[tried["role"] != "control"]
    tried = tried.assign(base=[names.get(str(v), str(v)) for v in tried["variant"]])
    found = []
    for (base, nfe), own in tried.groupby(["base", "nfe"], sort=False):
        if len(own) < 2:
            continue
        best = own.loc[own["value"].idxmax() if own["higher"].iloc[0] else own["value"].idxmin()]
        seen = second[(second["series"] == best["series"]) & (second["nfe"] == nfe)]
        way = str(best["series"]).removeprefix(str(base)).strip(" ·()")
        found.append(seen.assign(base=base, way=way, ways=len(own)))
    return pd.concat(found, ignore_index=True) if found else second.iloc[:0]
