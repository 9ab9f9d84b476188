"""A correct space of pixels; the bad plugins beside it break one rule each."""

import torch

from piflow_bench.api import Space, SpacePlugin


class Base(SpacePlugin):
    """Pixels."""

    def look(self, x):
        pixels = (x.clamp(-1, 1) + 1) * 127.5
        return pixels.round().byte().permute(0, 2, 3, 1).numpy()

    def encode(self, images):
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

    def load(self, pictures, place):
        height, width, channels = pictures
        return Space((channels, height, width), self.look, self.encode)
