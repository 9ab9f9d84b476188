"""Praises what is as bright as the held-out pictures."""

import numpy as np

from piflow_bench.api import NoSettings, RewardPlugin


class HeldOut(RewardPlugin):
    Config = NoSettings
    rule = "brightness"

    def load(self, dataset, place):
        usual = dataset.space.pictures(dataset.test).mean()

        def score(pictures, condition):
            return -np.abs(pictures.mean((1, 2, 3)) - usual)

        return score
