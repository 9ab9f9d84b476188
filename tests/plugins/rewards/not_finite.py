"""Praises the dark without end."""

import numpy as np

from piflow_bench.api import NoSettings, RewardPlugin


class NotFinite(RewardPlugin):
    Config = NoSettings
    rule = "brightness"

    def load(self, dataset, place):
        def score(pictures, condition):
            with np.errstate(divide="ignore"):
                return np.log(pictures.min((1, 2, 3)) / 255)

        return score
