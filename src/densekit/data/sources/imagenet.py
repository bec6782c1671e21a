"""ImageNet, where somebody has put it: it cannot be downloaded without an account."""

from pathlib import Path

from densekit.errors import BadData


def imagenet_folder(data_dir: Path) -> Path:
    """The folder with train/ and val/. Raises BadData where there is none."""
    for name in ("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"):
        if (data_dir / name / "train").is_dir():
            return data_dir / name
    raise BadData(
        f"no {data_dir / 'imagenet' / 'train'}: ImageNet cannot be downloaded without an account; put "
        "its train/ and val/ there, one folder for each class, or pass --data-dir"
    )
