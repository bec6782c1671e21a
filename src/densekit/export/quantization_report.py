"""What computing in 8 bits costs: the answers on images held out, before and after."""

from typing import Any

import numpy as np

from densekit.errors import BadData, ProofFailed
from densekit.metrics.multi_label import MultiLabel, MultiLabelRecords, auroc
from densekit.metrics.single_label import Records
from densekit.metrics.task import Task

_FIX = "no file is kept. Calibrate on more images with --calibration, allow more with --max-drop, or leave out --int8"


def cost(name: str, task: Task, before: Any, after: Any, most: float) -> dict[str, Any]:
    """What `parity.json` says of a format; `before` and `after` are the task's records of the same images.

    Raises ProofFailed where top-1 accuracy, of several labels the mean AUROC, falls by more than `most`; BadData where
    no label has an AUROC.
    """
    if isinstance(task, MultiLabel):
        return _of_labels(name, task, before, after, most)
    return _of_one(name, before, after, most)


def _of_one(name: str, before: Records, after: Records, most: float) -> dict[str, Any]:
    was, now = before.predicted == before.target, after.predicted == after.target
    drop = float(was.mean() - now.mean())
    if not drop <= most:
        raise ProofFailed(
            f"{name} in 8 bits is refused: top-1 falls from {was.mean():.2%} to {now.mean():.2%} on "
            f"{len(was):,} images held out, by more than {most:.2%}; {_FIX}"
        )
    return {
        "top1_before": float(was.mean()),
        "top1_after": float(now.mean()),
        "drop": drop,
        "newly_wrong": int((was & ~now).sum()),
        "newly_right": int((~was & now).sum()),
    }


def _of_labels(
    name: str, task: MultiLabel, before: MultiLabelRecords, after: MultiLabelRecords, most: float
) -> dict[str, Any]:
    labels = [
        {"class": label, "auroc_before": area, "auroc_after": auroc(*after.known(i))}
        for i, label in enumerate(task.classes)
        if (area := auroc(*before.known(i))) is not None
    ]
    if not labels:
        raise BadData(
            f"no label is both there and not there among the {len(before.target):,} images held out, and --int8 is "
            "judged by AUROC; name other --data"
        )
    was, now = (float(np.mean([row[key] for row in labels])) for key in ("auroc_before", "auroc_after"))
    if not was - now <= most:
        raise ProofFailed(
            f"{name} in 8 bits is refused: the mean AUROC falls from {was:.4f} to {now:.4f} on "
            f"{len(before.target):,} images held out, by more than {most:g}; {_FIX}"
        )
    limits = np.array(task.decisions())
    return {
        "auroc_before": was,
        "auroc_after": now,
        "drop": was - now,
        "per_class": labels,
        # Scores that all move alike keep every AUROC, and yet cross the thresholds of predictions.
        "decisions_changed": int(((before.score >= limits) != (after.score >= limits)).sum()),
        "decisions": before.score.size,
    }
