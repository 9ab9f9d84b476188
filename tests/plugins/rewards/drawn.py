"""Praises with some luck."""

import numpy as np

from piflow_bench.api import NoSettings, RewardPlugin


class Drawn(RewardPlugin):
    Config = NoSettings
    rule = "brightness"

    def load(self, dataset, place):
        random = np.random.default_rng()

        def score(pictures, condition):
            return pictures.mean((1, 2, 3)) + random.random(len(pictures))

        return score
