"""A folder that holds one folder of images for each class, checked file by file."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from bitlite.images import decoding
from bitlite.images.dataset import SPLITS
from bitlite.images.records import Example
from bitlite.sources import names, pictures, tree
from bitlite.sources.inspection import Located, Storage, in_parallel, inspect
from bitlite.sources.problems import Problems
from bitlite.sources.source import Entry, Source
from bitlite.sources.tree import Found, Tree
from bitlite.sources.unfinished import Unfinished
from bitlite.workflow.errors import listed

UNREADABLE = "files that can't be read as images"
# Images from which on processes are worth the second that they take to start.
MANY = 10_000
# Bytes that a thread reads before it hands them on.
READ_AT_ONCE = 2**18


def source(
    folder: Path,
    *,
    skip: bool,
    group: str | None = None,
    background: str = "white",
    unfinished: Unfinished | None = None,
) -> Source:
    """The images of `folder`, by path, in the splits that it has of its own, or all in train.

    Every image is decoded to see that it can be, but for those that `unfinished` knows. group: a regular expression
    that finds in an image's path below its class folder what it shares with the others of its group.

    Raises InputError that lists all problems. With `skip`, images that can't be used, all copies of an image that
    stands under several classes, and classes without images are left out and printed instead.
    """
    problems, unfinished = Problems(folder), unfinished or Unfinished(None)
    found = tree.read(folder, problems, grouped=group is not None)
    images = _images(found, problems)
    paths = [image.path for image in images]
    known = unfinished.known(folder, background, paths)

    def located(only: Collection[str] | None) -> Iterator[Located[str]]:
        left = [path for path in paths if path not in known] if only is None else only
        begun = len(known) if only is None else 0
        for path in tqdm(left, "check", initial=begun, total=begun + len(left), disable=None):
            yield path, partial(_content, path)

    try:
        seen = inspect(located, background, known=known, note=unfinished.note, processes=len(paths) >= MANY)
    finally:
        unfinished.write()
    for path, error in seen.failed.items():
        problems.add(f"{UNREADABLE}, {pictures.reason(path, error)}", [path])
    problems.remark("files of several images, of which the first is used", seen.several)
    for kind, span in seen.storage.spans.items():
        problems.remark(f"images of {kind} samples, in which {span} is shown as black to white", seen.deep[kind])
    readable = [image for image in images if image.path in seen.digests]
    torn = _under_several_classes(readable, seen.digests)
    laid = any(decoding.is_transparent(_content(path)) for path in torn if path in seen.storage.encoded)
    on = f", transparent ones laid on dataset.background, {background}" if laid else ""
    problems.add(f"files whose image stands under another class too{on}", torn)
    usable = [image for image in readable if image.path not in torn]

    labels = {name: label for label, name in enumerate(sorted({image.folder.name for image in usable}))}
    problems.add("class folders without a usable image", [one for one in found.classes if one.name not in labels])
    for fault, faulty in names.faults(one.name for one in found.classes).items():
        problems.refuse(fault, faulty)
    twins = names.twins(one.name for one in found.classes)
    problems.refuse("class names that differ only in case or in how Unicode spells a letter", twins)
    groups = _groups(usable, group, problems) if group else {}
    hint = ""
    if len(labels) < 2:
        few = listed(labels) or "none"
        hint = f"two or more class folders with images are needed, found: {few}; {tree.hint(folder)}"
    elif not any(image.split == "train" for image in usable):
        hint = "there is no usable image for training"
    problems.settle(skip=skip, hint=hint)

    splits = defaultdict(list)
    # By the names in their paths one after the other: no other character comes before the one between them.
    for path, one, split in sorted(usable, key=lambda image: image.path.replace(os.sep, "\0")):
        splits[split].append(Entry(path, labels[one.name], seen.digests[path], groups.get(path), seen.looks[path]))
    own = {split: splits[split] for split in SPLITS if split in splits}
    return Source(tuple(labels), own, partial(_fetch, seen.storage))


def _fetch(storage: Storage[str], _: str, chosen: list[Entry]) -> Iterator[Example]:
    size = sum(os.path.getsize(entry.where) for entry in chosen[:100]) / max(1, len(chosen[:100]))
    many = max(1, int(READ_AT_ONCE / max(1, size)))

    def read(place: int) -> list[Example]:
        group = chosen[place : place + many]
        return [(storage.stored(entry.where, _content(entry.where)), entry.label) for entry in group]

    return chain.from_iterable(in_parallel(read, range(0, len(chosen), many)))


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _images(found: Tree, problems: Problems) -> list[Found]:
    """The files in class folders that are meant as images. Those of other kinds are counted, without a problem."""
    paths = [file.path for file in found.files] + found.outside
    pictured = {path for path in paths if pictures.meant_as_image(path)}
    meant = pictures.without_companions(pictured)
    for kind, left in (
        ("that are no images", set(paths) - pictured),
        ("named as an image beside them", pictured - meant),
    ):
        counts = sorted(Counter(pictures.suffix(path) or "without a suffix" for path in left).items())
        problems.remark(f"kinds of files {kind}, left out", [f"{number} {ending}" for ending, number in counts])
    outside = [path for path in found.outside if path in meant]
    problems.add(f"images outside the class folders, {tree.EXPECTED}", outside)
    images = [file for file in found.files if file.path in meant]
    raw = {file.path: None for file in images if pictures.is_raw(file.path)}
    problems.add(f"{UNREADABLE}, {pictures.RAW_REASON}", raw)
    return [file for file in images if file.path not in raw]


def _under_several_classes(images: list[Found], digests: dict[str, bytes]) -> dict[str, None]:
    """The images that have a copy under another class, in order, copies next to each other."""
    first: dict[bytes, str] = {}
    torn = dict.fromkeys(
        digests[image.path]
        for image in images
        if first.setdefault(digests[image.path], image.folder.name) != image.folder.name
    )
    copies = defaultdict(list)
    for image in images if torn else ():
        if digests[image.path] in torn:
            copies[digests[image.path]].append(image.path)
    return dict.fromkeys(chain.from_iterable(copies.values()))


def _groups(images: list[Found], pattern: str, problems: Problems) -> dict[str, str]:
    """What `pattern` finds in the path of each image below its class folder, or in its one pair of parentheses."""
    groups = {}
    for path, one, _ in images:
        match = re.search(pattern, Path(path).relative_to(one).as_posix())
        if match and (shared := match[match.re.groups]):
            groups[path] = shared
    alone = [image.path for image in images if image.path not in groups]
    problems.remark("images that dataset.group does not match, each by itself", alone)
    return groups
