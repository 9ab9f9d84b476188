"""Prepares all pictures in one buffer, whichever thread asks."""

import time

import torch

from piflow_bench.api import FEATURES, ExtractorPlugin, NoSettings


class OneBuffer(ExtractorPlugin):
    Config = NoSettings
    rule = "0 to 1"

    def load(self, name, place):
        kept = {}

        def prepare(images):
            kept["x"] = torch.from_numpy(images) / 255
            time.sleep(0.002)
            return kept["x"]

        return self.loaded(name, place, prepare, lambda x: {FEATURES: x.mean((1, 2))})
