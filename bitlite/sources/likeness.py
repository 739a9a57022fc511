"""Images that look alike, though no pixel may be the same: thumbnails, JPEG encoded anew."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, product

import numpy as np

from bitlite.sources.source import Entry

# Bits of 64 in which the looks of one picture may differ: enough for nearly all thumbnails and copies in JPEG of lower
# quality, and few enough that other photos hardly ever lie within.
APART = 4


def alike(splits: dict[str, list[Entry]]) -> Iterator[tuple[tuple[str, Entry], tuple[str, Entry]]]:
    """Pairs of images, each behind its split, that look alike and are in other splits or classes.

    Of several images with the same look in a split and class the first stands for all. Copies are no such pair.
    """
    with_look = defaultdict[int, dict[tuple[str, int], Entry]](dict)
    for split, entries in splits.items():
        for entry in entries:
            if entry.look is not None:
                with_look[entry.look].setdefault((split, entry.label), entry)
    looks = np.array(sorted(with_look), np.uint64)
    for one, other in chain(((look, look) for look in with_look), _near(looks)):
        for (place, first), (another, second) in product(with_look[one].items(), with_look[other].items()):
            if place != another and first.digest != second.digest and (one != other or place < another):
                yield (place[0], first), (another[0], second)


def _near(looks: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of different looks, uint64 [looks], that are APART or less. None is kept: there may be very many."""
    earlier: list[np.uint64] = []
    # Looks that differ in so many bits agree in one of one more parts; in the first such part the pair is found.
    for part in np.array_split(np.arange(64), APART + 1):
        mask = np.uint64(sum(1 << int(bit) for bit in part))
        order = np.argsort(looks & mask, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff((looks & mask)[order])) + 1):
            bucket = looks[same]
            for place, look in enumerate(bucket):
                differ = bucket[place + 1 :] ^ look
                near = np.bitwise_count(differ) <= APART
                for before in earlier:
                    near &= differ & before != 0
                yield from ((int(look), int(look ^ bits)) for bits in differ[near])
        earlier.append(mask)
