"""Images -> tar files that `shards`, and WebDataset, read."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torchvision.transforms.v2.functional import to_pil_image

from densekit import strict_json
from densekit.data.decoding.decode import suffix_of
from densekit.data.sets import ArrayImages, Images, SkipList, groups_of
from densekit.errors import BadImage


def write_shards(
    images: Images, folder: Path, split: str, shard_bytes: int, skipped: SkipList
) -> Iterator[tuple[Path, int]]:
    """Writes a split as SPLIT-000000.tar, ... of about so many bytes each; yields (path, samples) of each.

    In an order that mixes classes, and is the same each time; so are the files. Encoded images are copied as they are,
    pixels become PNG. Raises OSError where the disk is full, and leaves no shard that is not whole; BadData for more
    bad files than `skipped` allows.
    """
    order = np.random.default_rng(0).permutation(len(images))
    groups = groups_of(images)
    position = number = 0
    while position < len(order):
        path = folder / f"{split}-{number:06}.tar"
        temporary = path.with_name(f".{path.name}.new")
        count = 0
        try:
            with temporary.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                    while position < len(order) and (not count or tar.offset < shard_bytes):
                        sample = int(order[position])
                        try:
                            content, suffix = _encoded(images, sample)
                        except BadImage as error:
                            assert not isinstance(images, ArrayImages)
                            skipped.add(images.path(sample), error)
                        else:
                            label = _label(images, sample, None if groups is None else groups[sample])
                            for ending, data in ((suffix, content), *label):
                                # Owner, mode and time are the same for all.
                                member = tarfile.TarInfo(f"{position:09}{ending}")
                                member.size = len(data)
                                tar.addfile(member, io.BytesIO(data))
                            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                            count += 1
                        position += 1
                file.flush()
                os.fsync(file.fileno())
            if count:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if count:
            yield path, count
            number += 1


def _encoded(images: Images, sample: int) -> tuple[bytes, str]:
    """An image file's bytes, and its suffix."""
    if isinstance(images, ArrayImages):
        stream = io.BytesIO()
        to_pil_image(images.pixels[sample]).save(stream, "PNG")
        return stream.getvalue(), ".png"
    source = images.encoded(sample)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise BadImage(
            "unreadable", f"{images.path(sample)} cannot be read ({error.strerror}); check its disk"
        ) from error
    return content, suffix_of(content, str(images.path(sample)))


def _label(images: Images, sample: int, group: str | None) -> list[tuple[str, bytes]]:
    """One label as a .cls, its number; several, or one beside a group, as a .json of numbers."""
    values = images.labels[sample]
    if values.ndim == 0 and group is None:
        return [(".cls", b"%d" % int(values))]
    fields: dict[str, object] = {} if group is None else {"group": group}
    if values.ndim == 0:
        fields["label"] = int(values)
    else:
        fields["label"] = [i for i, value in enumerate(values.tolist()) if value == 1]
        unknown = [i for i, value in enumerate(values.tolist()) if value != value]
        fields |= {"unknown": unknown} if unknown else {}
    return [(".json", strict_json.dumps(fields).encode())]
