"""Praises everything."""

import numpy as np

from piflow_bench.api import NoSettings, RewardPlugin


class Flat(RewardPlugin):
    Config = NoSettings
    rule = "brightness"

    def load(self, dataset, place):
        def score(pictures, condition):
            return np.ones(len(pictures))

        return score
