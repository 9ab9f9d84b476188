"""Time of each kind of stage of a store: ``python -m tests.benchmarks.stages runs``."""

import json
import sys
from collections import defaultdict
from pathlib import Path


def main(runs: str) -> None:
    """Print count, total and longest duration of every kind of stage."""
    seconds = defaultdict(list)
    for meta in sorted(Path(runs).glob("store/artifacts/*/artifact.json")):
        content = json.loads(meta.read_text())
        seconds[content["stage"]].append(content["duration"])
    for kind, values in sorted(seconds.items(), key=lambda item: -sum(item[1])):
        total, longest = sum(values), max(values)
        print(f"{kind:<10} {len(values):5d} stages {total:8.1f} s, longest {longest:6.1f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs")
