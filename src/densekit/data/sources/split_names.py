"""The words for a split that tables, shards and folders know, in any case."""

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

WITH_DEV = SPLITS | {"dev": "val"}
"""Of data sets of the Hub and of --split; a folder that is called dev may be a class."""
