"""What a page shows of a result, by its kind: figures, facts and the template for them."""

from typing import Any

from densekit.report import multi_label, single_label

SPLITS = {"train": "training", "val": "validation", "test": "test"}
"""How pages call a split."""

KINDS: dict[str, Any] = {"single-label": single_label, "multi-label": multi_label}
"""By kind of task the module with figures, facts and TEMPLATE of its results."""
