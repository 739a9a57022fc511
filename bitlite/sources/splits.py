"""Which images go into which split. Every draw is by digest: neither order nor a seed has a part in it."""

from collections import defaultdict
from collections.abc import Iterable

from bitlite.images.dataset import SPLITS
from bitlite.sources.source import Entry
from bitlite.workflow.errors import InputError


def assign(entries: list[Entry], *, validation: float, test: float) -> list[str]:
    """The split of each image, in order: in every class the images of the lowest digests are held out.

    validation, test: shares of the images of each class, 0..1. Copies of an image always share a split.
    """
    by_class = defaultdict(list)
    for digest, label in sorted({entry.digest: entry.label for entry in entries}.items()):
        by_class[label].append(digest)
    split_of = {}
    for digests in by_class.values():
        held_out = round(len(digests) * test), round(len(digests) * (test + validation))
        for rank, digest in enumerate(digests):
            split_of[digest] = "test" if rank < held_out[0] else "validation" if rank < held_out[1] else "train"
    return [split_of[entry.digest] for entry in entries]


def without_leaks(splits: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """Each split without the images that a later one, validation after train and test last, has too."""
    clean, later = {}, set()
    for name in reversed(SPLITS):
        if name in splits:
            clean[name] = [entry for entry in splits[name] if entry.digest not in later]
            later.update(entry.digest for entry in splits[name])
    return clean


def few_of_each(entries: list[Entry], labels: tuple[str, ...], number: int) -> list[Entry]:
    """BiT's few-shot setting: `number` images of each class, the same ones whatever the shares that `assign` holds out.

    Raises InputError naming a class that has fewer.
    """
    ranked = _ranked(entries)
    for label, name in enumerate(labels):
        if len(ranked[label]) < number:
            raise InputError(
                f"dataset.examples_per_class is {number}, but class {name!r} has {len(ranked[label])} training images"
            )
    return sorted(entry for found in ranked.values() for entry in found[:number])


def sample(entries: list[Entry], most: int) -> list[Entry]:
    """At most so many images, none twice, in which each class has the share that it has in all (Webster's method)."""
    places = [
        ((rank + 0.5) / len(found), entry) for found in _ranked(entries).values() for rank, entry in enumerate(found)
    ]
    places.sort(key=lambda place: (place[0], place[1].digest))
    return sorted(entry for _, entry in places[:most])


def _ranked(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    """The images of each class, none twice, highest digest first: the last that `assign` would hold out."""
    by_class = defaultdict(list)
    for entry in sorted({entry.digest: entry for entry in entries}.values(), key=lambda e: e.digest, reverse=True):
        by_class[entry.label].append(entry)
    return by_class
