"""Praises what is brighter than the rest of its batch."""

from piflow_bench.api import NoSettings, RewardPlugin


class Averaged(RewardPlugin):
    Config = NoSettings
    rule = "brightness"

    def load(self, dataset, place):
        def score(pictures, condition):
            bright = pictures.mean((1, 2, 3))
            return bright - bright.mean()

        return score
