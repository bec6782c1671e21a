"""Made chest X-rays: grey pictures with several findings, patients with several pictures, and labels nobody knows.

`python -m tests.data.xrays FOLDER [PATIENTS]` writes them for a look.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FINDINGS = ("Cardiomegaly", "Effusion", "Nodule", "Pneumothorax")
SHARES = (0.3, 0.4, 0.25, 0.15)

SETTINGS = {
    "data.label_columns": list(FINDINGS),
    "data.image_size": 32,
    "data.channels": 1,
    "data.test_fraction": 0.3,
    "data.val_fraction": 0.3,
    "augment.crop": "none",
    "plan": "concat",
    "batch_size": 32,
}
"""What small runs on them are trained with."""


def write_xrays(root: Path, *, patients: int = 60, size: int = 32, unknown: float = 0.1, seed: int = 0) -> Path:
    """ROOT/images/*.png and ROOT/labels.csv; returns the CSV. A patient has one to five pictures."""
    random = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("Path", "Patient ID", "Age", *FINDINGS))
        for patient in range(patients):
            build, age = random.uniform(0.8, 1.2), int(random.integers(20, 90))
            for number in range(int(random.integers(1, 6))):
                there = random.random(len(FINDINGS)) < SHARES
                name = f"images/{patient:05}_{number:03}.png"
                Image.fromarray(xray(random, there, size, build)).save(root / name)
                # What the one who read the picture was not sure of, or did not write about.
                left_out = random.random(len(FINDINGS)) < unknown
                cells = np.where(left_out, random.choice(["-1", ""], len(FINDINGS)), there.astype(int).astype(str))
                writer.writerow((name, patient, age, *cells))
    return root / "labels.csv"


def xray(random: np.random.Generator, there: NDArray[np.bool_], size: int, build: float) -> NDArray[np.uint8]:
    """(size, size): two dark lungs with a heart between them, and what is there of FINDINGS."""
    cardiomegaly, effusion, nodule, pneumothorax = there
    down, across = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    x = np.full((size, size), 0.75)
    for middle in (0.28, 0.72):
        x[((across - middle) / (0.19 * build)) ** 2 + ((down - 0.5) / 0.38) ** 2 < 1] = 0.25
    width = 0.24 if cardiomegaly else 0.13
    x[((across - 0.54) / (width * build)) ** 2 + ((down - 0.62) / 0.18) ** 2 < 1] = 0.8
    if effusion:  # water at the bottom of a lung
        side = random.random() < 0.5
        x[(down > 0.66) & (down < 0.92) & ((across < 0.45) == side)] = 0.8
    if nodule:
        at = random.choice([0.25, 0.75]) + random.uniform(-0.06, 0.06), random.uniform(0.25, 0.5)
        x[(across - at[0]) ** 2 + (down - at[1]) ** 2 < 0.06**2] = 0.95
    if pneumothorax:  # air beside a lung
        x[(down < 0.55) & (across < 0.14 if random.random() < 0.5 else across > 0.86)] = 0.02
    return np.clip(255 * (x + random.normal(0, 0.06, x.shape)), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    print(write_xrays(Path(sys.argv[1]), patients=int(sys.argv[2]) if len(sys.argv) > 2 else 60))
