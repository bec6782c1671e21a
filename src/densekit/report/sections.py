"""What a page shows of a result, by its kind: figures, facts and the template for them."""

from typing import Any

from densekit.report import multi_label, single_label

SPLITS = {"train": "training", "val": "validation", "test": "test"}


# Each has figures and facts of its own kind of result, and the template that shows them.
KINDS: dict[str, Any] = {"single-label": single_label, "multi-label": multi_label}
