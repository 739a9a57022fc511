"""A source of labelled images: the entries of its images, and a way to their pixels."""

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from bitlite.images.records import Example

# Where an image is: its path, or its number among the images of its split.
Place = TypeVar("Place", bound=Hashable)


class Entry(NamedTuple, Generic[Place]):
    """An image that a source has, without its pixels."""

    where: Place
    label: int
    # What only images of the same pixels have in common (see `inspection.Inspection`).
    digest: bytes
    # What it shares with images that must be in the same split, if anything: the video that it is a frame of.
    group: str | None = None
    # Its perceptual hash, if it has one (see `decoding.Seen`).
    look: int | None = None


class Source(NamedTuple):
    """A data set before it is prepared."""

    # Class names in the order of the labels' numbers.
    labels: tuple[str, ...]
    # The images of each split that it has itself; train is always one of them.
    splits: dict[str, list[Entry]]
    # Goes through some images of one of these splits.
    fetch: Callable[[str, list[Entry]], Iterator[Example]]
