"""`make help` tells the truth."""

import re
from pathlib import Path

MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")


def test_every_chore_says_what_it_does() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE)) == set(phony.split())


def test_bench_measures_training_inference_and_memory() -> None:
    (recipe,) = re.findall(r"^bench:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert re.findall(r"densekit bench (\w+)", recipe) == ["train", "infer", "memory"]
