"""Pictures of one's own for tests: stripes, whose direction is their class."""

import numpy as np
from PIL import Image


def stripes(direction, count, height=16, width=16, seed=0):
    """Different coloured pictures ``(count, height, width, 3)`` uint8."""
    rng = np.random.default_rng([seed, int(1000 * direction)])
    rows, columns = np.mgrid[:height, :width]
    along = (rows * np.cos(direction) + columns * np.sin(direction))[..., None]
    waves = np.sin(
        rng.uniform(0.3, 0.9, (count, 1, 1, 3)) * along + rng.uniform(0, 6, (count, 1, 1, 3))
    )
    noise = rng.normal(0, 8, (count, height, width, 3))
    return (127.5 + 100 * waves + noise).clip(0, 255).astype(np.uint8)


def class_folders(root, classes=4, each=40, height=16, width=16):
    """PNGs below ``root``, a folder a class; returns ``root``."""
    for label in range(classes):
        folder = root / f"direction {label}"
        folder.mkdir(parents=True)
        found = stripes(label * np.pi / classes, each, height, width)
        for i, picture in enumerate(found):
            Image.fromarray(picture).save(folder / f"{i}.png")
    return root
