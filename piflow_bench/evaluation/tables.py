"""Tables of measured sets: a row a metric, sets side by side, and every two of them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from piflow_bench.contracts.extractor import Extractor
from piflow_bench.evaluation.differences import UNPAIRED, difference, pairing
from piflow_bench.evaluation.inference.cells import better_higher
from piflow_bench.evaluation.measured import WHOLE, Measured
from piflow_bench.evaluation.protocols import Protocol, Rules, rules_hash
from piflow_bench.evaluation.settings import make_settings
from piflow_bench.evaluation.sources import Sources

COLUMNS = [
    "metric", "group", "value", "ci_low", "ci_high", "confidence", "n", "n_reference", "interval",
    "estimand", "estimator", "samples", "taken", "classes", "reference", "extractor", "protocol",
    "protocol_hash", "rules", "warnings",
]  # fmt: skip
OF_CLASSES = {"pairwise_within", "vendi_within", "lpips_within"}
"""Metrics whose value depends on which samples share a class."""
OF_SETS = ["against", "difference", "difference_low", "difference_high", "paired"]
"""Further columns where there are several sets, which then begin with ``set``."""
DIFFERENCES = ["set", "against", "metric", "n", "difference", "ci_low", "ci_high", "confidence",
               "paired"]  # fmt: skip


def resolved_rules(sources: Sources, rules: Protocol, network: Extractor) -> Rules:
    """The rules of a set's scores with everything that they state."""
    digest = sources.reference.digest() if sources.reference else "none"
    classes = sources.classes() if OF_CLASSES & set(rules.metrics) else "not used"
    return rules.rules(network.identity, sources.count, digest, classes)


def rows_of(measured: Measured, rules: Protocol, network: Extractor) -> pd.DataFrame:
    """The rows of one set, in ``COLUMNS``."""
    sources, target = measured.sources, measured.sources.reference
    resolved = resolved_rules(sources, rules, network)
    shared = (
        sources.samples.path,
        sources.taken,
        sources.classes(),
        target.path if target else "",
        network.identity,
        rules.name,
        rules_hash(resolved),
        json.dumps(resolved, sort_keys=True),
        "\n".join(measured.warnings),
    )
    count = None if target is None else target.count
    confidence = make_settings(rules.settings).confidence
    rows = []
    for group, v in measured.values:
        of_reference = count if group == WHOLE else None
        bounds = (v.ci_low, v.ci_high, confidence, v.n, of_reference, v.interval.how)
        rows.append((v.metric, group, v.value, *bounds, v.interval.estimand, v.estimator, *shared))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n_reference": "Int64"})


def compared(
    measured: Mapping[str, Measured], rules: Protocol, network: Extractor
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of all sets, the best first, and the differences of every two."""
    apart = _differences(measured, make_settings(rules.settings).confidence)
    first = next(iter(measured))
    tables = []
    for name in _best_first(measured):
        rows = rows_of(measured[name], rules, network)
        own = apart[(apart["set"] == name) & (apart["against"] == first)].set_index("metric")
        whole = rows["group"] == WHOLE
        for column, of in zip(
            OF_SETS, ("against", "difference", "ci_low", "ci_high", "paired"), strict=True
        ):
            rows[column] = rows["metric"].map(own[of]).where(whole) if len(own) else None
        rows.insert(0, "set", name)
        tables.append(rows)
    table = pd.concat(tables, ignore_index=True)
    for column in OF_SETS:
        if column.startswith("difference"):
            table[column] = table[column].astype(float)
        else:
            table[column] = table[column].astype(object).where(table[column].notna(), None)
    return table, apart


def _best_first(measured: Mapping[str, Measured]) -> list[str]:
    """Names of the sets, by the first metric; as given where it has no better direction."""
    metric = next(iter(measured.values())).values[0][1].metric
    higher = better_higher(metric)
    values = {name: each.values[0][1].value for name, each in measured.items()}
    if higher is None:
        return list(values)
    known = [name for name in values if np.isfinite(values[name])]
    return sorted(known, key=values.__getitem__, reverse=higher) + [
        name for name in values if name not in known
    ]


def _differences(measured: Mapping[str, Measured], confidence: float) -> pd.DataFrame:
    """Each set against each that was given before it, in every metric of whole sets."""
    rows = []
    for (before, b), (name, a) in combinations(measured.items(), 2):
        how = pairing(a.sources, b.sources)
        theirs = {value.metric: value for group, value in b.values if group == WHOLE}
        for group, value in a.values:
            if group == WHOLE:
                found = difference(value, theirs[value.metric], how != UNPAIRED, confidence)
                bounds = (found.difference, found.low, found.high, confidence, how)
                rows.append((name, before, value.metric, value.n, *bounds))
    return pd.DataFrame(rows, columns=DIFFERENCES)
