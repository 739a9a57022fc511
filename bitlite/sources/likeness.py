"""Images that look alike, though no pixel may be the same: thumbnails, crops' neighbours, JPEG encoded anew."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np

from bitlite.sources.source import Entry

# Bits of 64 in which the looks of one picture may differ: enough for nearly all thumbnails and copies in JPEG of lower
# quality, and few enough that other photos hardly ever lie within.
APART = 4


def alike(splits: dict[str, list[Entry]]) -> Iterator[tuple[tuple[str, Entry], tuple[str, Entry]]]:
    """Pairs of images, each behind its split, that look alike and are in other splits or classes.

    Of several images with the same look in a split and class the first stands for all. Copies are no such pair.
    """
    with_look = defaultdict(dict)
    for split, entries in splits.items():
        for entry in entries:
            if entry.look is not None:
                with_look[entry.look].setdefault((split, entry.label), entry)
    looks = np.array(sorted(with_look), np.uint64)
    for one, other in sorted({(int(look), int(look)) for look in looks} | _near(looks)):
        for (place, first), (another, second) in product(with_look[one].items(), with_look[other].items()):
            if place != another and first.digest != second.digest and (one != other or place < another):
                yield (place[0], first), (another[0], second)


def _near(looks: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of different looks, uint64 [looks] in order, that are APART or less."""
    pairs = set()
    # Looks that differ in so many bits agree in one of one more parts.
    for part in np.array_split(np.arange(64, dtype=np.uint64), APART + 1):
        keys = looks >> part[0] & np.uint64(2 ** len(part) - 1)
        order = np.argsort(keys, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            bucket = looks[same]
            for place, look in enumerate(bucket):
                rest = bucket[place + 1 :]
                near = rest[np.bitwise_count(rest ^ look) <= APART]
                pairs.update((int(look), int(other)) for other in near)
    return pairs
