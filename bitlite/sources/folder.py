"""A folder that holds one folder of images for each class: what is in it, and what is wrong with it."""

import hashlib
import io
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from bitlite.images.dataset import Entry
from bitlite.workflow.errors import InputError

# What file managers leave behind, besides hidden files. Every other file is taken for an image.
LITTER = {"desktop.ini", "ehthumbs.db", "thumbs.db"}


def scan(folder: Path, *, skip: bool) -> tuple[tuple[str, ...], list[Entry]]:
    """Class names and images of `folder`, by path. Every file is decoded to see that it can be; none stays in memory.

    Raises InputError that lists all that is wrong: files that can't be read as images, images that stand under several
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
    return tuple(classes), [entry._replace(label=label_of[names[entry.label]]) for entry in usable]


def encoded(entry: Entry) -> bytes:
    """The image as an upright RGB JPEG or PNG; the file's own bytes where they are that already."""
    content = entry.where.read_bytes()
    # Bytes that `scan` took as they are need no second decoding.
    return content if _digest(content) == entry.digest else _encoded(content)


def listed(items: Iterable, most: int = 10) -> str:
    """The first items in one line, and how many more there are."""
    names = [str(item) for item in items]
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more)


def _told(problems: dict[str, list]) -> list[str]:
    return [f"{kind} ({len(found)}): {listed(found)}" for kind, found in problems.items() if found]


def _files(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.name.lower() not in LITTER:
            yield path


def _checked(files: list[tuple[Path, int]]) -> tuple[list[Entry], list[Path]]:
    """Those that are images, and those that are not."""
    entries, unreadable = [], []
    for path, label in tqdm(files, "check", disable=None):
        try:
            entries.append(Entry(path, label, _digest(_encoded(path.read_bytes()))))
        except Exception:  # Pillow's decoders raise whatever a damaged file makes them stumble over
            unreadable.append(path)
    return entries, unreadable


def _under_several_classes(entries: list[Entry]) -> list[Entry]:
    """Those with a copy under another class, copies next to each other."""
    copies = defaultdict(list)
    for entry in entries:
        copies[entry.digest].append(entry)
    return [entry for same in copies.values() if len({entry.label for entry in same}) > 1 for entry in same]


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _encoded(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        if image.format in ("JPEG", "PNG") and image.mode == "RGB" and not turned:
            return content
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):  # 16-bit grey, which Pillow's convert would clip at 255
        upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
    return png(upright)


def png(image: Image.Image) -> bytes:
    """`image` as an RGB PNG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
