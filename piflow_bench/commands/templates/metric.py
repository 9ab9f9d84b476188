"""NAME: say here in one line what is measured, and where it is published.

Test it with `python -m piflow_bench check metric NAME plugins=THIS_FILE`, and use it with
`evaluate samples=PATH reference=PATH metrics=[NAME] plugins=THIS_FILE`, or in a run with
`protocol.metrics=[NAME]` beside the protocol's others. As it stands it is the distance between
the means of both sets of features.
"""

import numpy as np

from piflow_bench.api import Inputs, Metric, Scored, jackknife


def compute(inputs: Inputs) -> Scored:
    """The value, and the value without each block of samples, from which its interval comes."""
    reference = inputs.ref.features.mean(axis=0)

    def distance(rows: np.ndarray) -> float:
        return float(np.linalg.norm(rows.mean(axis=0) - reference))

    found = jackknife(distance, inputs.generated, inputs.blocks)
    return {"NAME": (found.value, found.replicates)}


CONSTANT = Metric(
    name="NAME",
    label="LABEL",
    higher_is_better=False,  # None where neither direction is better in itself
    role="quality",  # quality | diversity | agreement | other
    needs=("generated", "reference"),  # perhaps also logits, labels, spatial
    compute=compute,
    meaning="How far the mean of the samples' features lies from that of the reference's.",
    least=0,  # no value lies below, and none above `most`
    # Config=Config: a frozen dataclass of settings, given as protocol.settings.NAME.KEY=VALUE and
    # read in compute by inputs.config("NAME")
)
