"""What a download of a data set that was interrupted has left, and goes on from."""

import hashlib
import os
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import PIL

from bitlite.images import decoding, depth
from bitlite.images.decoding import Seen
from bitlite.workflow.files import held

# What is known of an image of 8 bits a sample: the hash of its path in the folder, its file's size and time of change,
# what is seen of it (sketch, look and FLAGS), and behind all that its CRC-32: a crash may leave half of it.
ROW, CHECK = struct.Struct("<16sQq32sQB"), struct.Struct("<I")
LENGTH = ROW.size + CHECK.size
FLAGS = ("exact", "kept", "several")
HAS_LOOK = 1 << len(FLAGS)
# A file that changed so shortly before it was looked at may change again without a later time: it is looked at anew.
RECENT_NS = 2 * 10**9
# Rows that are written at once.
AT_ONCE = 500


def decoders() -> tuple:
    """What decides what is seen of an image, and how it is stored: where that changes, nothing is gone on from."""
    return PIL.__version__, *(Path(str(module.__file__)).read_bytes() for module in (decoding, depth))


class Unfinished:
    """A folder that keeps what a download has done so far; None keeps nothing.

    In it are `seen`, a file that grows by a row for each image that is looked at, `records`, a folder of files of
    records, and `copies` of sets that lie in buckets.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._rows = folder, list[bytes]()
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
        identity = hashlib.sha256(repr((os.path.realpath(root), background, decoders())).encode()).digest()
        file = self._folder / "seen"
        content = file.read_bytes() if file.exists() else b""
        if content[: len(identity)] != identity:
            content = identity
            self._forget_records()
        begin = len(identity)
        end = len(content) - (len(content) - begin) % LENGTH  # the last row may be cut short
        self._seen = file.open("r+b" if file.exists() else "w+b")
        self._seen.write(identity)
        self._seen.truncate(end)
        self._seen.seek(end)
        place_of = {content[place : place + 16]: place for place in range(begin, end, LENGTH)}
        found = dict[str, Seen]()
        for path in paths if place_of else ():
            if (place := place_of.get(self._hash(path))) is None:
                continue
            row, check = content[place : place + ROW.size], content[place + ROW.size : place + LENGTH]
            _, size, changed, sketch, look, flags = ROW.unpack(row)
            if check != CHECK.pack(zlib.crc32(row)):
                continue
            if self._state(path) == (size, changed):
                exact, kept, several = (bool(flags & 1 << bit) for bit in range(len(FLAGS)))
                found[path] = Seen(sketch, exact, kept, several, look if flags & HAS_LOOK else None)
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
            row = ROW.pack(self._hash(path), *state, seen.sketch, seen.look or 0, flags)
            self._rows.append(row + CHECK.pack(zlib.crc32(row)))
        if len(self._rows) >= AT_ONCE:
            self.write()

    def write(self) -> None:
        """Write what is noted and not written yet."""
        if self._seen and self._rows:
            self._seen.write(b"".join(self._rows))
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

    def copy(self, address: str) -> Path:
        """A folder for a copy of what lies at this address; it goes with the rest, or with this process."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory()
            return Path(self._temporary.name)
        return self._folder / "copies" / hashlib.sha256(address.encode()).hexdigest()[:16]

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
