"""Generated people: blurred patterns that differ from person to person more than from picture to picture."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (1, 24, 20)
"""Shape of a picture."""


def write_people(folder: Path, people: int, pictures: int) -> None:
    """Write `folder/s1/1.pgm` and so on."""
    generator = np.random.default_rng(0)
    _, height, width = SIZE
    for person in range(1, people + 1):
        coarse = generator.uniform(40, 215, (6, 5))
        face = np.kron(coarse, np.ones((height // 6, width // 5)))
        place = folder / f"s{person}"
        place.mkdir(parents=True, exist_ok=True)
        for picture in range(1, pictures + 1):
            noisy = face + generator.normal(0, 12, face.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{picture}.pgm")
