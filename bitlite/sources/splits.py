"""Which images go into which split. Every draw is by digest: neither order nor a seed has a part in it."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from operator import attrgetter

from bitlite.images.dataset import SPLITS
from bitlite.sources.source import Entry
from bitlite.workflow.errors import InputError

# What folders and TFDS sets call the splits, in any case.
NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def known(name: str) -> str | None:
    """The split that `name` means, if it means one."""
    return next((split for split, names in NAMES.items() if name.lower() in names), None)


def assign(entries: list[Entry], *, validation: float, test: float) -> list[str]:
    """The split of each image, in order: in every class the images of the lowest digests are held out.

    validation, test: shares of all images, 0..1. Classes have their shares of the two as nearly as whole images allow
    (Webster's method), but an image of each stays in training. Images that copies or groups link, be it through
    others, share a split.
    """
    # Of the labels that copies have the highest, whatever their order.
    label_of = {entry.digest: entry.label for entry in sorted(entries, key=attrgetter("label"))}
    units = _by_place(_linked(entries), label_of)
    training = Counter(label_of.values())

    def spared(unit: list[bytes]) -> bool:
        labels = [label_of[digest] for digest in unit]
        return all(training[label] > labels.count(label) for label in set(labels))

    # Images without which their class would have none count for no share: other classes would have to make up for them.
    total = sum(len(unit) for unit in units if spared(unit))
    wanted = {"test": round(total * test), "validation": round(total * (test + validation)) - round(total * test)}
    split_of: dict[bytes, str] = {}
    for split, missing in wanted.items():
        for unit in units:
            if missing <= 0:
                break
            if unit[0] not in split_of and len(unit) <= 2 * missing and spared(unit):
                split_of |= dict.fromkeys(unit, split)
                training.subtract(label_of[digest] for digest in unit)
                missing -= len(unit)
    return [split_of.get(entry.digest, "train") for entry in entries]


def _linked(entries: list[Entry]) -> list[list[bytes]]:
    """The digests of images that must share a split, in order."""
    # From digests and groups to others of the same unit, and from one to itself.
    leads: dict[bytes | str, bytes | str] = {}

    def end(key: bytes | str) -> bytes | str:
        while leads.setdefault(key, key) != key:
            leads[key] = key = leads[leads[key]]
        return key

    for entry in entries:
        leads[end(entry.digest)] = end(entry.digest if entry.group is None else entry.group)
    units = defaultdict(list)
    for digest in sorted({entry.digest for entry in entries}):
        units[end(digest)].append(digest)
    return list(units.values())


def _by_place(units: list[list[bytes]], label_of: dict[bytes, int]) -> list[list[bytes]]:
    """Units by where they lie, 0..1, among those of the class that most of their images have, in order of digests."""
    classes = []
    for unit in units:
        labels = [label_of[digest] for digest in unit]
        classes.append(max(sorted(set(labels)), key=labels.count))
    sizes, before, places = Counter[int](), Counter[int](), []
    for label, unit in zip(classes, units, strict=True):
        sizes[label] += len(unit)
    for label, unit in zip(classes, units, strict=True):
        places.append(((before[label] + len(unit) / 2) / sizes[label], unit))
        before[label] += len(unit)
    return [unit for _, unit in sorted(places)]


def without_leaks(splits: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """Each split without the images that copies or groups, be it through others, link to a later one's.

    Validation is later than training, and test the last.
    """
    latest = {entry.digest: split for split in SPLITS for entry in splits.get(split, ())}
    for unit in _linked([entry for entries in splits.values() for entry in entries]):
        latest |= dict.fromkeys(unit, max((latest[digest] for digest in unit), key=SPLITS.index))
    return {split: [entry for entry in entries if latest[entry.digest] == split] for split, entries in splits.items()}


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
    """At most so many images, none twice: of each class one, then the share that it has in all (Webster's method)."""
    places = [
        ((rank + 0.5) / len(found) if rank else 0.0, entry)
        for found in _ranked(entries).values()
        for rank, entry in enumerate(found)
    ]
    places.sort(key=lambda place: (place[0], place[1].digest))
    return sorted(entry for _, entry in places[:most])


def _ranked(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    """The images of each class, none twice, highest digest first: the last that `assign` would hold out."""
    by_class = defaultdict(list)
    for entry in sorted({entry.digest: entry for entry in entries}.values(), key=lambda e: e.digest, reverse=True):
        by_class[entry.label].append(entry)
    return by_class
