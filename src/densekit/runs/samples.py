"""Images of a run's reported split, written as files."""

from pathlib import Path

from densekit.data import load as load_data
from densekit.data.sets import ArrayImages
from densekit.data.split import divide
from densekit.folders import data_folder
from densekit.runs.run_folder import recipe_of


def write_samples(run: Path, count: int) -> list[Path]:
    """The first `count` images of a run's reported split as RUN/samples/NAME-true-CLASS.png; in-memory data only."""
    from torchvision.transforms.v2.functional import to_pil_image

    recipe = recipe_of(run)
    data = divide(load_data(recipe.data, data_folder()), recipe.data)
    images = data.splits["test"]
    assert isinstance(images, ArrayImages)
    folder = run / "samples"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, pixels, label in zip(images.names()[:count], images.pixels, images.labels.tolist(), strict=False):
        path = folder / f"{name}-true-{data.classes[label]}.png"
        to_pil_image(pixels).save(path)
        paths.append(path)
    return paths
