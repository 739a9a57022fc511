"""A source of labelled images: the entries of its images, and a way to their pixels."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from bitlite.images.records import Example


class Entry(NamedTuple):
    """An image that a source has, without its pixels."""

    # Its path, or its number among the images of its split.
    where: Path | int
    label: int
    # SHA-256 of its encoded bytes. Copies are images with the same; one that was encoded anew is none.
    digest: bytes
    # What it shares with images that must be in the same split, if anything: the video that it is a frame of.
    group: str | None = None


class Source(NamedTuple):
    """A data set before it is prepared."""

    # Class names in the order of the labels' numbers.
    labels: tuple[str, ...]
    # The images of each split that it has itself; train is always one of them.
    splits: dict[str, list[Entry]]
    # Goes through some images of one of these splits.
    fetch: Callable[[str, list[Entry]], Iterator[Example]]


def digest(encoded: bytes) -> bytes:
    """The digest of an `Entry`."""
    return hashlib.sha256(encoded).digest()


def png(image: Image.Image) -> bytes:
    """`image` as an RGB PNG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def numbered(examples: Iterable[Example], total: int | None = None) -> list[Entry]:
    """The entries of `examples`, `total` in number, by their number. Images without a label are left out."""
    return [
        Entry(number, label, digest(encoded))
        for number, (encoded, label) in enumerate(tqdm(examples, "hash", total, disable=None))
        if label >= 0  # TFDS gives -1 to an image whose class is kept secret
    ]


def among(examples: Iterable[Example], chosen: Iterable[Entry]) -> Iterator[Example]:
    """The `examples` whose entries, as `numbered` made them, are `chosen`."""
    numbers = {entry.where for entry in chosen}
    return (example for number, example in enumerate(examples) if number in numbers)
