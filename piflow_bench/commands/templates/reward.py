"""NAME: say here in one line what makes a picture good.

Test it with `python -m piflow_bench check reward NAME plugins=THIS_FILE`, and train a method to
please it with `variants.dollar.settings.reward=NAME`. As it stands a picture is good that has as
much contrast as the training pictures of the data have on average.
"""

import numpy as np
import torch

from piflow_bench.api import Condition, Dataset, NoSettings, Place, RewardPlugin, Score

PICTURES = 500


class CLASS(RewardPlugin):
    """Nearness of a picture's contrast to that of the training pictures."""

    Config = NoSettings  # or a frozen dataclass of settings, each with its default
    rule = "minus the difference from the mean contrast of the training pictures, relative to it"

    def load(self, dataset: Dataset, place: Place) -> Score:
        """The function that scores: it may learn from training data, never from held-out ones.

        A network goes to `place.device` here. Where it needs labels or prompts, define `lacks`.
        """
        count = len(dataset.training_rows)
        rows = torch.linspace(0, count - 1, min(PICTURES, count)).round().long()
        look = dataset.space.pictures  # samples (n, *shape) as pictures (n, h, w, c) uint8
        assert look is not None  # Points are refused before.
        seen = look(dataset.training_rows.take(rows, None))
        usual = contrast(seen).mean()

        def score(pictures: np.ndarray, condition: Condition) -> np.ndarray:
            """Numbers (b,) of pictures (b, h, w, c) uint8, each by itself; higher is better."""
            return -np.abs(contrast(pictures) - usual) / max(usual, 1.0)

        return score


def contrast(pictures: np.ndarray) -> np.ndarray:
    """The spread of the grey levels of pictures (b, h, w, c)."""
    return pictures.astype(np.float64).mean(3).std((1, 2))
