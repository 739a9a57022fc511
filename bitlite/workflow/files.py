"""Files that are written whole or not at all, and read again."""

import csv
import errno
import fcntl
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bitlite.workflow.errors import damaged, missing, one_line

# How many times its size a packed file of arrays may unpack to: weights hardly shrink, and the zeros of pruned ones by
# less. A bomb of a few megabytes would take all memory.
UNPACKED = 20

# No room on the disk, for this user or in this file.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to be written as a file or made a directory; it becomes `path` on success.

    If the block raises, or the process dies, `path` stays as it was. A directory can only be replaced in two steps: if
    the process dies between them, the next one that writes or removes `path` brings it back first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(path)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    with held(scratch):
        try:
            yield scratch / path.name
            (scratch / path.name).lstat()  # raises before the old is touched
            if path.is_dir():  # which os.replace does not replace
                _put_away(path, _replaced(path, scratch))
            os.replace(scratch / path.name, path)
        except OSError as error:
            if error.errno in FULL:  # which writing tells without a name
                error.filename = error.filename or str(path)
            raise
        finally:
            _clear(scratch, path)


def _put_away(directory: Path, place: Path) -> None:
    """Move it, so that it is never seen half deleted; or remove it, where it can't be moved."""
    try:
        os.replace(directory, place)
    except OSError as error:
        # overlayfs moves no directory of a lower layer, such as one of a container's image.
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(directory)


def remove(path: Path) -> None:
    """Remove the file, if there is one, and the scratch of killed processes that wrote it."""
    path.unlink(missing_ok=True)
    _clear_abandoned(path)


def _clear_abandoned(path: Path) -> None:
    for scratch in path.parent.glob(f".{path.name}-*"):
        # One that a living process has just done with is gone.
        with suppress(FileNotFoundError), held(scratch) as abandoned:
            if abandoned:
                _clear(scratch, path)


@contextmanager
def held(scratch: Path) -> Iterator[bool]:
    """Hold a directory until the block ends or the process dies. Gives whether no other process holds it."""
    descriptor = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError as error:  # some network disks lock no directories
        free = not isinstance(error, BlockingIOError)
    try:
        yield free
    finally:
        os.close(descriptor)


def _clear(scratch: Path, path: Path) -> None:
    replaced = _replaced(path, scratch)
    if replaced.exists() and not path.exists():
        os.replace(replaced, path)
    shutil.rmtree(scratch)


def _replaced(path: Path, scratch: Path) -> Path:
    """Where the old directory lies while the new one takes its place."""
    return scratch / f"{path.name}-replaced"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; what else lies in it is left alone.

    Raises OSError if it can't be read, ValueError if it is no .npz file, is damaged, holds pickled objects, or would
    unpack to more than UNPACKED times its size.
    """
    with path.open("rb") as file:
        try:
            return dict(_arrays(file))
        except OSError:
            raise
        except MemoryError as error:  # which says nothing of the file
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from error
        except Exception as error:  # zipfile, NumPy and Python's parser of a header each stumble in ways of their own
            raise ValueError(f"no .npz file, or a damaged one: {one_line(error)}") from error


def _arrays(file: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    with zipfile.ZipFile(file) as archive:
        arrays = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        size, most = sum(member.file_size for member in arrays), UNPACKED * os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"its arrays take {size} bytes, more than {UNPACKED} times the file's own")
        for member in arrays:
            with archive.open(member) as content:
                yield member.filename.removesuffix(".npy"), np.lib.format.read_array(content, allow_pickle=False)
                if content.read(1):  # only the end of a member brings its checksum
                    raise ValueError(f"{member.filename} holds more than its header says")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` as it is."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Mapping) -> None:
    """Write `content` with sorted keys; NaN and infinity, which JSON lacks, raise ValueError."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping]) -> None:
    """Write a header of `columns` and `rows`, which have just these keys."""
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# Whether a text may stand in a column.
Kind = Callable[[str], bool]


def read_csv(path: Path, columns: Mapping[str, Kind] = {}, *, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a file that a stage wrote, which may have more columns.

    Raises InputError naming the file if it is missing, is no CSV file, lacks one of `columns`, or has a text in one
    that is not of its kind; then also the row and the text.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            rows, names = list(reader), reader.fieldnames or ()
    except FileNotFoundError:
        raise missing(path) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise damaged(path, f"is no CSV file ({one_line(error)})") from error
    if absent := [name for name in columns if name not in names]:
        raise damaged(path, f"has no column {absent[0]}")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():  # what csv makes of more and of fewer
            raise damaged(path, f"has not {len(names)} columns in row {number}")
        if wrong := [name for name, kind in columns.items() if not kind(row[name])]:
            raise damaged(path, f"has {row[wrong[0]]!r} as {wrong[0]} in row {number}")
    return rows


def between(least: float, most: float, *, whole: bool = False) -> Kind:
    """The texts of numbers of this range, of `whole` ones alone if that is said; never nan."""

    def fits(text: str) -> bool:
        try:
            return least <= (int if whole else float)(text) <= most
        except ValueError:
            return False

    return fits


def or_nothing(kind: Kind) -> Kind:
    """The texts of this kind, and the empty one."""
    return lambda text: not text or kind(text)


def text(_: str) -> bool:
    """Any text."""
    return True


NUMBER, SHARE, COUNT = between(-1e300, 1e300), between(0, 1), between(0, 2**63, whole=True)
