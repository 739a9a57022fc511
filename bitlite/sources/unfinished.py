"""What a download of a data set that was interrupted has left, and goes on from."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL

from bitlite.images import decoding, depth
from bitlite.images.decoding import Seen
from bitlite.workflow.files import held

# What is known of an image of 8 bits a sample: the hash of its path in the folder, its file's size and time of change,
# and what is seen of it: sketch, look and FLAGS.
ROW = np.dtype(
    [("path", "V16"), ("size", "<u8"), ("changed", "<i8"), ("sketch", "V32"), ("look", "<u8"), ("flags", "u1")]
)
FLAGS = ("exact", "kept", "several")
HAS_LOOK = 1 << len(FLAGS)
# A file that changed so shortly before it was looked at may change again without a later time: it is looked at anew.
RECENT_NS = 2 * 10**9
# Rows that are written at once.
AT_ONCE = 500


class Unfinished:
    """A folder that keeps what a download has done so far; None keeps nothing.

    In it are `seen`, a file that grows by a row for each image that is looked at, and `records`, a folder of files of
    records.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._rows = folder, list[tuple]()
        self._seen: BinaryIO | None = None
        self._root = ""

    def known(self, root: Path, background: str, paths: Iterable[str]) -> dict[str, Seen]:
        """What was seen of those files of `paths`, in `root`, that are as they were then.

        Everything is begun anew if other files were looked at, on another background or by other decoders, and the
        records if a file has changed.
        """
        if self._folder is None:
            return {}
        self._root = str(root)
        code = [Path(str(module.__file__)).read_bytes() for module in (decoding, depth)]
        identity = hashlib.sha256(repr((os.path.realpath(root), background, PIL.__version__, code)).encode()).digest()
        file = self._folder / "seen"
        content = file.read_bytes() if file.exists() else b""
        if content[: len(identity)] != identity:
            content = identity
        end = len(content) - (len(content) - len(identity)) % ROW.itemsize  # the last row may be cut short
        self._seen = file.open("r+b" if file.exists() else "w+b")
        self._seen.write(identity)
        self._seen.truncate(end)
        self._seen.seek(end)
        rows = np.frombuffer(content[:end], ROW, offset=len(identity))
        number_of = {row.tobytes(): number for number, row in enumerate(rows["path"])}
        found = dict[str, Seen]()
        for path in paths if number_of else ():
            if (number := number_of.get(self._hash(path))) is not None:
                row = rows[number]
                if self._state(path) == (row["size"], row["changed"]):
                    found[path] = _seen(row)
                else:
                    self._forget_records()
        return found

    def note(self, path: str, seen: Seen) -> None:
        """Keep what is seen of a file, unless its samples have more than 8 bits: what they show hangs on others."""
        if self._seen is None or seen.kind or seen.sketch is None:
            return
        state = self._state(path)
        if state and time.time_ns() - state[1] > RECENT_NS:
            flags = sum(getattr(seen, name) << bit for bit, name in enumerate(FLAGS))
            flags |= HAS_LOOK * (seen.look is not None)
            self._rows.append((self._hash(path), *state, seen.sketch, seen.look or 0, flags))
        if len(self._rows) >= AT_ONCE:
            self.write()

    def write(self) -> None:
        """Write what is noted and not written yet."""
        if self._seen and self._rows:
            self._seen.write(np.array(self._rows, ROW).tobytes())
            self._seen.flush()
            self._rows.clear()

    def records(self, identity: str) -> Path | None:
        """A folder for the files of records of a data set that has this identity; those of others are removed."""
        if self._folder is None:
            return None
        records = self._folder / "records" / identity
        if not records.exists():
            self._forget_records()
            records.mkdir(parents=True)
        return records

    def _forget_records(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder / "records", ignore_errors=True)

    def _hash(self, path: str) -> bytes:
        return hashlib.blake2b(os.fsencode(path[len(self._root) :]), digest_size=16).digest()

    def _state(self, path: str) -> tuple[int, int] | None:
        with suppress(OSError):
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
        return None


@contextmanager
def unfinished(folder: Path | None) -> Iterator[Unfinished]:
    """What `folder` keeps, unless another process has it; removed when the block ends well."""
    if folder is None:
        yield Unfinished(None)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder) as free:
        yield Unfinished(folder if free else None)
        if free:
            shutil.rmtree(folder)


def _seen(row: np.void) -> Seen:
    flags, look = int(row["flags"]), int(row["look"])
    exact, kept, several = (bool(flags & 1 << bit) for bit in range(len(FLAGS)))
    return Seen(row["sketch"].tobytes(), exact, kept, several, look if flags & HAS_LOOK else None)
