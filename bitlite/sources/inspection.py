"""Each image of a source is looked at once: whether it can be read, what it is known by, how it will be stored."""

import os
import pickle
import subprocess
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import cycle, islice
from typing import IO, Generic, NamedTuple, TypeVar, cast

from bitlite.images import decoding, depth
from bitlite.images.decoding import Seen
from bitlite.images.depth import Kind, Span, Unreadable
from bitlite.workflow.cores import cores

# Where an image is, in a source's own terms.
Place = TypeVar("Place", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")
# Where an image is, and what brings its file's bytes.
Located = tuple[Place, Callable[[], bytes]]

# Items that a process is handed at once: small ones, of which it is to have enough to do.
GROUP = 64
# Bytes that must hold a group of items, or its results: else a process and its starter could wait for each other.
PIPE = 2**20


class Storage(NamedTuple, Generic[Place]):
    """How the files of images become what the prepared data set holds."""

    # Those whose files it can't hold as they are.
    encoded: set[Place]
    spans: dict[Kind, Span]
    background: str

    def stored(self, where: Place, content: bytes) -> bytes:
        """The file of this `content` as the data set holds it: itself, or a PNG."""
        if where not in self.encoded:
            return content
        return decoding.png(decoding.upright_rgb(content, background=self.background, spans=self.spans))


class Inspection(NamedTuple, Generic[Place]):
    """What is known of a source's images."""

    # Of each image that can be shown, what only equal images share: SHA-256 of pixels as they are shown, whatever the
    # file's format. That of a large image is of its sketch, with that of all pixels behind it if others share the
    # sketch: so the order of digests, by which splits are drawn, does not change with other images, unless these change
    # the range of samples.
    digests: dict[Place, bytes]
    # Their perceptual hashes, None of small images.
    looks: dict[Place, int | None]
    # What was raised in place of the others.
    failed: dict[Place, Exception]
    # Images of more than 8 bits whose files do not say what is black and what white, by kind; `storage` has the range
    # found for each.
    deep: dict[Kind, list[Place]]
    # Those whose files hold others behind the one that is shown.
    several: list[Place]
    storage: Storage[Place]


def inspect(
    located: Callable[[Collection | None], Iterable[Located[Place]]],
    background: str = "white",
    *,
    known: Mapping[Place, Seen] = {},
    note: Callable[[Place, Seen], None] = lambda where, seen: None,
    processes: bool = False,
) -> Inspection[Place]:
    """Decode every image of a source once, on all cores, and again those that can't be known otherwise.

    located: goes through the images at some places, or with None through all that are not `known`, and is called up to
    three times. note: told of every image that is seen. processes: see `in_processes`.
    """
    seen = dict(known)
    failed: dict[Place, Exception] = {}
    parallel = in_processes if processes else in_parallel
    for where, result in parallel(partial(_attempt, background=background), located(None)):
        if isinstance(result, Exception):
            failed[where] = result
        else:
            seen[where] = result
            note(where, result)
    deep, spans, unfit = _ranges(seen)
    failed |= unfit
    seen = {where: image for where, image in seen.items() if where not in unfit}

    def again(look: Callable[..., Result], only: set[Place]) -> Iterator[tuple[Place, Result]]:
        def looked(image: Located[Place]) -> tuple[Place, Result]:
            where, load = image
            return where, look(load(), background=background, spans=spans)

        return in_parallel(looked, located(only)) if only else iter(())

    seen |= again(decoding.see, {where for where, image in seen.items() if image.sketch is None})
    digests = {where: image.sketch for where, image in seen.items() if image.sketch}  # by now all have one
    alike = Counter(digests.values())
    doubtful = {where for where, image in seen.items() if not image.exact and alike[digests[where]] > 1}
    for where, rest in again(decoding.digest, doubtful):
        digests[where] += rest
    storage = Storage({where for where, image in seen.items() if not image.kept}, spans, background)
    looks = {where: image.look for where, image in seen.items()}
    several = [where for where, image in seen.items() if image.several]
    return Inspection(digests, looks, failed, deep, several, storage)


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in order, computed in a thread for each core. Few of them ever wait, so few items are in memory."""
    count = cores()
    waiting = deque[Future[Result]]()
    with ThreadPoolExecutor(count) as threads:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def in_processes(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """As `in_parallel`, by a process for each core: for many small images, of which Python's own work takes most time.

    Function, items and results are pickled; a group's fit into a pipe of PIPE bytes, as paths do. The processes end
    with this one however it ends; those of ProcessPoolExecutor would wait for ever for one that is killed.
    """
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    # In sessions of their own: Ctrl-C is for this process, and they end when it does, as their input then ends.
    workers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=PIPE,
            env=environment,
            start_new_session=True,
        )
        for _ in range(cores())
    ]
    source, waiting = iter(items), deque[subprocess.Popen]()
    try:
        for worker in workers:
            _hand(function, worker)
        for worker in cycle(workers):
            if len(waiting) == 2 * len(workers):
                yield from _received(waiting.popleft())
            if not (group := list(islice(source, GROUP))):
                break
            _hand(group, worker)
            waiting.append(worker)
        while waiting:
            yield from _received(waiting.popleft())
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def serve() -> None:
    """What a process of `in_processes` does: give results, or what was raised, of each group of items that comes."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no result
    with suppress(EOFError, BrokenPipeError):
        function = pickle.load(sys.stdin.buffer)
        while True:
            group = pickle.load(sys.stdin.buffer)
            try:
                _send([function(item) for item in group], results)
            except Exception as error:
                _send(error, results)


def _send(message: object, pipe: IO[bytes]) -> None:
    pipe.write(pickle.dumps(message))
    pipe.flush()


def _hand(message: object, worker: subprocess.Popen) -> None:
    with _told_of_death():
        _send(message, cast(IO[bytes], worker.stdin))


def _received(worker: subprocess.Popen) -> list:
    with _told_of_death():
        results = pickle.load(cast(IO[bytes], worker.stdout))
    if isinstance(results, Exception):
        raise results
    return results


@contextmanager
def _told_of_death() -> Iterator[None]:
    try:
        yield
    except (EOFError, BrokenPipeError) as error:
        raise RuntimeError("a process that decodes images was killed: is there too little memory?") from error


def _attempt(image: Located[Place], background: str) -> tuple[Place, Seen | Exception]:
    """What is seen of an image, or raised instead, behind where it is."""
    where, load = image
    try:
        return where, decoding.see(load(), background=background)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        return where, error


def _ranges(
    seen: dict[Place, Seen],
) -> tuple[dict[Kind, list[Place]], dict[Kind, Span], dict[Place, Unreadable]]:
    """Images whose files give no range for their samples, the range shown of each kind, and what can't be shown so."""
    used = defaultdict[Kind, dict[Place, Span]](dict)
    for where, image in seen.items():
        if image.kind and image.used and not image.declared:
            used[image.kind][where] = image.used
    spans: dict[Kind, Span] = {}
    unfit: dict[Place, Unreadable] = {}
    for kind, its in used.items():
        try:
            spans[kind] = depth.span(kind, its.values())
        except Unreadable as error:
            unfit |= dict.fromkeys(its, error)
    for where, image in seen.items():
        if image.kind is None or image.bright is None:  # of 8 bits
            continue
        span = image.declared or spans.get(image.kind)
        if span and depth.is_dark(image.bright, span):
            whose = (
                "that their files give, by sBIT or tags of TIFF"
                if image.declared
                else f"of the set's {image.kind} samples"
            )
            unfit[where] = Unreadable(f"all but black: they use less than a 16th of {span}, the range {whose}")
    deep = {kind: [where for where in its if where not in unfit] for kind, its in used.items()}
    return deep, spans, unfit
