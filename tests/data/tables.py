"""Tables of images with two classes."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_table(folder: Path, words: tuple[str, str] = ("0", "1"), column: str = "ill", count: int = 120) -> Path:
    """Noise, brighter in the middle where the label is there; every third is, of 30 patients."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        there = i % 3 == 0
        pixels = random.normal(100, 25, (16, 16))
        pixels[4:12, 4:12] += 8 * there
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        split = ("train", "val", "test")[max(0, i // (count // 4) - 1)]
        rows.append(f"{i}.png,{words[there]},{split},{split}{i // 4}")
    table = folder / "t.csv"
    table.write_text("\n".join([f"path,{column},split,patient", *rows, ""]))
    return table
