"""A folder that holds one folder of images for each class, checked file by file."""

import io
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from bitlite.sources.source import Entry, Source, digest, png
from bitlite.workflow.errors import InputError, listed

# Files that file managers leave behind, besides hidden ones. Every other file is taken for an image.
LITTER = {"desktop.ini", "ehthumbs.db", "thumbs.db"}


def source(folder: Path, *, skip: bool) -> Source:
    """The images of `folder` in one split train, by path. Every file is decoded to see that it can be.

    Raises InputError that lists all problems: files that can't be read as images, images that stand under several
    classes, classes without images, fewer than two classes, class names that differ only in case. With `skip` the
    first three, with all copies of such an image, are left out and printed instead.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [(path, label) for label, name in enumerate(names) for path in _files(folder / name)]
    entries, unreadable = _checked(files)
    ambiguous = _under_several_classes(entries)
    usable = sorted(set(entries) - set(ambiguous))
    classes = [names[label] for label in sorted({entry.label for entry in usable})]
    spellings = Counter(name.casefold() for name in names)
    avoidable = _told(
        {
            "files that can't be read as images": unreadable,
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
    return Source(tuple(classes), {"train": train}, lambda _, chosen: ((_encoded_again(e), e.label) for e in chosen))


def _encoded_again(entry: Entry) -> bytes:
    """The image as it was encoded when the folder was checked."""
    content = entry.where.read_bytes()
    # Bytes that were taken as they are need no second decoding.
    return content if digest(content) == entry.digest else _encoded(content)


def _told(problems: dict[str, list]) -> list[str]:
    return [f"{kind} ({len(found)}): {listed(found)}" for kind, found in problems.items() if found]


def _files(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.name.lower() not in LITTER:
            yield path


def _checked(files: list[tuple[Path, int]]) -> tuple[list[Entry], list[Path]]:
    """The files that are images, and those that are not."""
    entries, unreadable = [], []
    for path, label in tqdm(files, "check", disable=None):
        try:
            entries.append(Entry(path, label, digest(_encoded(path.read_bytes()))))
        except Exception:  # Pillow's decoders raise whatever a damaged file makes them stumble over
            unreadable.append(path)
    return entries, unreadable


def _under_several_classes(entries: list[Entry]) -> list[Entry]:
    """The entries that have a copy under another class, copies next to each other."""
    copies = defaultdict(list)
    for entry in entries:
        copies[entry.digest].append(entry)
    return [entry for same in copies.values() if len({entry.label for entry in same}) > 1 for entry in same]


def _encoded(content: bytes) -> bytes:
    """An image file as an upright RGB JPEG or PNG: its own bytes if it is that already."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        if image.format in ("JPEG", "PNG") and image.mode == "RGB" and not turned:
            return content
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):  # 16-bit grey, which Pillow's convert would clip at 255
        upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
    return png(upright)
