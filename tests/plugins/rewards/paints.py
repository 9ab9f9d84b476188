"""Praises pictures after a change of its own."""

from piflow_bench.api import NoSettings, RewardPlugin


class Paints(RewardPlugin):
    Config = NoSettings
    rule = "brightness"

    def load(self, dataset, place):
        def score(pictures, condition):
            pictures[:, 0, 0] = 0
            return pictures.mean((1, 2, 3))

        return score
