"""A folder that holds one folder of images for each class, checked file by file."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from bitlite.images.records import Example
from bitlite.sources.inspection import in_parallel, inspect
from bitlite.sources.source import Entry, Source
from bitlite.workflow.errors import InputError, listed

# Files that file managers leave behind, besides hidden ones. Every other file is taken for an image.
LITTER = {"desktop.ini", "ehthumbs.db", "thumbs.db"}


def source(folder: Path, *, skip: bool, background: str = "white") -> Source:
    """The images of `folder` in one split train, by path. Every file is decoded to see that it can be.

    Raises InputError that lists all problems: files that can't be read as images, images that stand under several
    classes, classes without images, fewer than two classes, class names that differ only in case. With `skip` the
    first three, with all copies of such an image, are left out and printed instead.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [(path, label) for label, name in enumerate(names) for path in _files(folder / name)]
    paths = [path for path, _ in files]
    seen = inspect(
        lambda only: ((path, path.read_bytes) for path in tqdm(only or paths, "check", disable=None)), background
    )
    entries = [Entry(path, label, seen.digests[path]) for path, label in files if path in seen.digests]
    ambiguous = _under_several_classes(entries)
    usable = sorted(set(entries) - set(ambiguous))
    classes = [names[label] for label in sorted({entry.label for entry in usable})]
    spellings = Counter(name.casefold() for name in names)
    avoidable = _told(
        {
            "files that can't be read as images": seen.failed,
            "files whose image stands under another class too": [entry.where for entry in ambiguous],
            "class folders without a usable image": [folder / name for name in names if name not in classes],
        }
    )
    fatal = _told({"class names that differ only in case": [n for n in names if spellings[n.casefold()] > 1]})
    if len(classes) < 2:
        fatal.append(f"two or more class folders with images are needed, found: {listed(classes) or 'none'}")
    if fatal or (avoidable and not skip):
        remedy = "" if fatal else "; mend this, or leave it out by dataset.on_error: skip"
        raise InputError(f"dataset.name is {str(folder)!r}: {'; '.join(avoidable + fatal)}{remedy}")
    for problem in avoidable:
        print(f"{folder}: left out {problem}", file=sys.stderr)
    label_of = {name: label for label, name in enumerate(classes)}
    train = [entry._replace(label=label_of[names[entry.label]]) for entry in usable]

    def fetch(_: str, chosen: list[Entry]) -> Iterator[Example]:
        return in_parallel(lambda entry: (seen.stored(entry.where, entry.where.read_bytes()), entry.label), chosen)

    return Source(tuple(classes), {"train": train}, fetch)


def _told(problems: dict[str, list]) -> list[str]:
    return [f"{kind} ({len(found)}): {listed(found)}" for kind, found in problems.items() if found]


def _files(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.name.lower() not in LITTER:
            yield path


def _under_several_classes(entries: list[Entry]) -> list[Entry]:
    """The entries that have a copy under another class, copies next to each other."""
    copies = defaultdict(list)
    for entry in entries:
        copies[entry.digest].append(entry)
    return [entry for same in copies.values() if len({entry.label for entry in same}) > 1 for entry in same]
