"""Images that look alike, though no pixel may be the same: thumbnails, JPEG encoded anew."""

from collections.abc import Iterator
from itertools import chain, product

import numpy as np

from bitlite.sources.source import Entry

# Bits of 64 in which the looks of one picture may differ: enough for nearly all thumbnails and copies in JPEG of lower
# quality, and few enough that other photos hardly ever lie within.
APART = 4
# Pairs that are compared at once.
AT_ONCE = 2**20


def alike(splits: dict[str, list[Entry]]) -> Iterator[tuple[tuple[str, Entry], tuple[str, Entry]]]:
    """Pairs of images, each behind its split, that look alike and are in other splits or classes.

    Of several images with the same look in a split and class the first stands for all. Copies are no such pair.
    """
    placed = [(split, entry) for split, entries in splits.items() for entry in entries if entry.look is not None]
    order = np.argsort(np.array([entry.look for _, entry in placed], np.uint64), kind="stable")
    looks, begins, counts = np.unique(
        np.array([placed[number][1].look for number in order], np.uint64), return_index=True, return_counts=True
    )

    def with_look(place: int) -> dict[tuple[str, int], Entry]:
        """The first of each split and class that have the look at this place."""
        first: dict[tuple[str, int], Entry] = {}
        for number in order[begins[place] : begins[place] + counts[place]]:
            split, entry = placed[number]
            first.setdefault((split, entry.label), entry)
        return first

    shared = sorted(np.flatnonzero(counts > 1).tolist(), key=lambda place: order[begins[place]])
    for one, other in chain(zip(shared, shared, strict=True), _near(looks)):
        for (place, first), (another, second) in product(with_look(one).items(), with_look(other).items()):
            if place != another and first.digest != second.digest and (one != other or place < another):
                yield (place[0], first), (another[0], second)


def _near(looks: np.ndarray) -> Iterator[tuple[int, int]]:
    """Places of pairs of different looks, uint64 [looks], that are APART or less. None is kept: there may be many."""
    earlier: list[np.uint64] = []
    # Looks that differ in so many bits agree in one of one more parts; in the first such part the pair is found.
    for part in np.array_split(np.arange(64), APART + 1):
        mask = np.uint64(sum(1 << int(bit) for bit in part))
        order = np.argsort(looks & mask, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff((looks & mask)[order])) + 1):
            bucket, rows = looks[same], max(1, AT_ONCE // max(1, len(same)))
            for begin in range(0, len(same) - 1, rows):
                # [rows, those from the first row on]
                differ = bucket[begin : begin + rows, None] ^ bucket[None, begin:]
                row, column = np.nonzero(np.bitwise_count(differ) <= APART)
                row, column = row[column > row], column[column > row]
                for before in earlier:
                    apart = differ[row, column] & before != 0
                    row, column = row[apart], column[apart]
                yield from zip(same[begin + row].tolist(), same[begin + column].tolist(), strict=True)
        earlier.append(mask)
