"""What lies in a folder: splits, classes and their files. Other layouts are refused."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bitlite.sources import pictures, splits
from bitlite.sources.problems import Problems
from bitlite.workflow.errors import listed

# Names of the two halves of a segmentation set, in lower case.
IMAGES = {"image", "images", "img", "imgs", "input", "inputs", "jpegimages"}
MASKS = {
    "annotation", "annotations", "label", "labels", "labelids", "mask", "masks", "segmentation", "segmentationclass",
    "segmentations", "target", "targets", "trimaps",
}  # fmt: skip

EXPECTED = "expected is FOLDER/CLASS/image.jpg or FOLDER/{train,validation,test}/CLASS/image.jpg (docs/folders.md)"


class Found(NamedTuple):
    """A file of a class."""

    path: str
    # The folder of its class, which bears the class's name.
    folder: Path
    # train, validation or test: train where the folder has no splits of its own.
    split: str


class Tree(NamedTuple):
    """All files of a folder that are not litter."""

    files: list[Found]
    # The folders of classes, of which a class has one in each split.
    classes: list[Path]
    # Files that lie in no class folder.
    outside: list[str]


def read(root: Path, problems: Problems, *, grouped: bool = False) -> Tree:
    """What `root` holds. Adds to `problems` what can't be reached, and layouts that mean something else.

    grouped: whether the folders below those of the classes may be groups, which bear the same names in each class.
    """
    _scanned.cache_clear()
    folders, outside = _layout(root, problems, grouped)
    above = {os.path.realpath(folder) for folder in (root, *root.resolve().parents)}
    files = [Found(path, folder, split) for split, folder in folders for path in _files_below(folder, above, problems)]
    _scanned.cache_clear()
    return Tree(files, [folder for _, folder in folders], outside)


def hint(root: Path) -> str:
    """The layout expected and, for a `root` that has fewer than two classes, where they may be instead."""
    parent = Path(os.path.abspath(root)).parent
    if _images_in(root) and len([folder for folder in _listing(parent).folders if _images_in(folder)]) > 1:
        return f"{EXPECTED}; did you mean {parent}?"
    below = root
    while len(folders := _listing(below).folders) == 1:
        (below,) = folders
    return f"{EXPECTED}; did you mean {below}?" if folders and below != root else EXPECTED


class _Listing(NamedTuple):
    """Sub-folders and files of a folder, links among them taken for what they lead to, by name."""

    folders: list[Path]
    files: list[str]
    # What else lies there, or the folder itself if it can't be listed, each with what is the matter.
    odd: list[tuple[str, Path]]


def _listing(folder: Path, problems: Problems | None = None) -> _Listing:
    listing, problems = _scanned(folder), problems or Problems(folder)
    for kind, path in listing.odd:
        problems.add(kind, [path])
    return listing


@cache  # as long as a tree is read: folders of many files are asked for again and again
def _scanned(folder: Path) -> _Listing:
    listing = _Listing([], [], [])
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry for entry in entries if not pictures.is_litter(entry.name)), key=lambda entry: entry.name
            )
    except OSError as error:
        listing.odd.append((f"folders that can't be listed, {error.strerror}", folder))
        return listing
    for entry in found:
        try:
            if entry.is_dir():
                listing.folders.append(folder / entry.name)
            elif entry.is_file():
                listing.files.append(entry.path)
            else:
                os.stat(entry.path)
                listing.odd.append(("neither files nor folders", folder / entry.name))
        except FileNotFoundError:
            listing.odd.append(("links to nothing", folder / entry.name))
        except OSError as error:
            listing.odd.append((f"paths that can't be reached, {error.strerror}", folder / entry.name))
    return listing


def _files_below(folder: Path, above: set[str], problems: Problems) -> Iterator[str]:
    """The files of a class, each folder's once. A link back to a folder of `above`, real paths, is not followed."""
    read, waiting = set(above), [folder]
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in read:
            problems.remark("links to folders that are read already", [here])
            continue
        read.add(real)
        listing = _listing(here, problems)
        yield from listing.files
        waiting += sorted(listing.folders, reverse=True)


def _layout(root: Path, problems: Problems, grouped: bool) -> tuple[list[tuple[str, Path]], list[str]]:
    """The folders of classes with their splits, and the files that lie outside of them."""
    top = _listing(root, problems)
    split_of = {folder: split for folder in top.folders if (split := splits.known(folder.name))}
    divided = [folder for folder in split_of if _holds_classes(folder)]
    others = [folder for folder in top.folders if folder not in split_of]
    # With other folders beside it a lone train is a class, such as one of vehicles.
    if "train" in map(split_of.get, divided) and (not others or len(set(split_of.values())) > 1):
        for split in set(split_of.values()):
            same = [folder for folder in split_of if split_of[folder] == split]
            problems.refuse(f"more than one folder for the split {split}", same if len(same) > 1 else [])
        problems.add("folders beside those of the splits", others)
        listings = {folder: _listing(folder, problems) for folder in split_of}
        classes = [(split_of[folder], below) for folder in split_of for below in listings[folder].folders]
        outside = top.files + [path for listing in listings.values() for path in listing.files]
    else:
        refused = _refuse_splits_that_hold_no_classes(top.folders, split_of, problems)
        problems.remark("classes named as splits", split_of)
        _tell_of_other_splits(root, problems)
        if not refused:
            _tell_of_classes_below(top.folders, problems, grouped)
        classes, outside = [("train", folder) for folder in top.folders], top.files
    _refuse_splits_of_classes([folder for _, folder in classes], problems)
    _refuse_masks([folder for _, folder in classes], problems)
    return classes, outside


def _refuse_splits_that_hold_no_classes(folders: list[Path], split_of: dict[Path, str], problems: Problems) -> bool:
    """Whether there are any."""
    if len(set(split_of.values())) > 1:
        problems.refuse("folders named as splits, without a train that holds class folders", split_of)
        return True
    meant_by = {folder: meant for folder in folders if (meant := _words_of_splits(folder.name))}
    meant = set().union(*meant_by.values())
    # A name with other words, such as train_station, may be a class's unless what it holds are folders.
    doubtful = [folder for folder in meant_by if not splits.known(re.sub("[^a-z]", "", folder.name.lower()))]
    found = "train" in meant and len(meant) > 1 and not any(map(_images_in, doubtful))
    if found:
        problems.refuse("folders that look like splits; name them train, validation and test to have them so", meant_by)
    return found


def _tell_of_other_splits(root: Path, problems: Problems) -> None:
    parent = Path(os.path.abspath(root)).parent
    if own := splits.known(root.name):
        beside = [folder for folder in _listing(parent).folders if splits.known(folder.name) not in (None, own)]
        problems.remark(f"named as a split, and not used unless dataset.name is {parent}", beside)


def _tell_of_classes_below(folders: list[Path], problems: Problems, grouped: bool) -> None:
    """Of folders that hold the same ones: splits under names of their own, cameras or years."""
    deep = {folder: {below.name for below in _listing(folder).folders} for folder in folders if _holds_classes(folder)}
    shared = sorted(name for name in set.intersection(*deep.values()) if not splits.known(name)) if deep else []
    if len(deep) < 2 or len(shared) < 2:
        return
    inside = listed(shared)
    if len(deep) == len(folders) and not grouped:
        problems.refuse(
            f"folders that all hold the folders {inside}; if those are the classes, name these train, validation and "
            "test; if these are, give dataset.group, which says what images share a split",
            deep,
        )
    else:
        problems.remark(f"taken for classes, though what lies in each may be the classes, {inside}", deep)


def _refuse_splits_of_classes(classes: list[Path], problems: Problems) -> None:
    inside = [below for folder in classes for below in _listing(folder).folders if splits.known(below.name)]
    problems.refuse("split folders inside class folders, which go above them", inside)


def _refuse_masks(classes: list[Path], problems: Problems) -> None:
    images, masks = ([folder for folder in classes if folder.name.lower() in half] for half in (IMAGES, MASKS))
    if images and masks:
        problems.refuse("folders of images and of what is drawn on them, which are no classes", images + masks)


def _holds_classes(folder: Path) -> bool:
    """Whether it holds folders, and no images beside them, or fewer than lie in them: strays."""
    beside, below = len(_images_in(folder)), _listing(folder).folders
    return bool(below) and (not beside or beside < sum(len(_images_in(each)) for each in below))


def _images_in(folder: Path) -> list[str]:
    """The images that lie in the folder itself."""
    return list(filter(pictures.meant_as_image, _listing(folder).files))


def _words_of_splits(name: str) -> set[str]:
    return {split for word in re.split("[^a-z]+", name.lower()) if (split := splits.known(word))}
