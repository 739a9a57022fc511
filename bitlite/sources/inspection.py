"""Each image of a source is looked at once: whether it can be read, what it is known by, how it will be stored."""

import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from bitlite.images import decoding, depth
from bitlite.images.depth import Kind, Span, Unreadable

Item, Result = TypeVar("Item"), TypeVar("Result")
# Where an image is, in a source of one's own choice, and what brings its file's bytes.
Located = tuple[Hashable, Callable[[], bytes]]


class Inspection(NamedTuple):
    """What is known of a source's images."""

    # Of each image that can be shown, what only equal images share: SHA-256 of pixels as they are shown, whatever the
    # file's format; of more than 8 bits, of the samples that the file holds. Of images too large for their sketch to
    # tell all, it is that of the sketch, and only of those that share it that of all pixels behind it. So the order of
    # digests, by which splits are drawn, does not change with other images.
    digests: dict[Hashable, bytes]
    # Their perceptual hashes, None of small images.
    looks: dict[Hashable, int | None]
    # What was raised in place of the others.
    failed: dict[Hashable, Exception]
    # Those whose files the prepared data set can't hold as they are.
    encoded: set[Hashable]
    # Images of more than 8 bits whose files do not say what is black and what white, and the range found for each kind.
    deep: dict[Kind, list[Hashable]]
    spans: dict[Kind, Span]
    background: str

    def stored(self, where: Hashable, content: bytes) -> bytes:
        """The file of this `content` as the data set holds it: itself, or a PNG."""
        if where not in self.encoded:
            return content
        return decoding.png(decoding.upright_rgb(content, background=self.background, spans=self.spans))


def inspect(located: Callable[[Collection | None], Iterable[Located]], background: str = "white") -> Inspection:
    """Decode every image of a source once, on all cores; again only what can't be told apart else.

    located: goes through the images at some places, or with None through all, and is called once or twice.
    """
    seen, failed = {}, {}
    for where, result in in_parallel(lambda image: _attempt(decoding.see, image, background), located(None)):
        (failed if isinstance(result, Exception) else seen)[where] = result
    deep = defaultdict(dict)
    for where, image in seen.items():
        if image.kind and not image.declared:
            deep[image.kind][where] = image.used
    spans = {}
    for kind, used in deep.items():
        unreadable = _fit(kind, used, spans)
        failed |= unreadable
        seen = {where: image for where, image in seen.items() if where not in unreadable}
    digests = {where: image.sketch for where, image in seen.items()}
    alike = Counter(digests.values())
    doubtful = {where for where, image in seen.items() if not image.exact and alike[image.sketch] > 1}
    if doubtful:
        for where, result in in_parallel(lambda image: _attempt(decoding.digest, image, background), located(doubtful)):
            if isinstance(result, Exception):
                raise result
            digests[where] += result
    encoded = {where for where, image in seen.items() if not image.kept}
    shown = {kind: [where for where in used if where in seen] for kind, used in deep.items() if kind in spans}
    looks = {where: image.look for where, image in seen.items()}
    return Inspection(digests, looks, failed, encoded, shown, spans, background)


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in order, computed in a thread for each core. Few of them ever wait, so few items are in memory."""
    cores = os.cpu_count()
    waiting = deque()
    with ThreadPoolExecutor(cores) as threads:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _attempt(look: Callable, image: Located, background: str) -> tuple[Hashable, object]:
    """What `look` returns or raises of an image, behind where that is."""
    where, load = image
    try:
        return where, look(load(), background=background)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        return where, error


def _fit(kind: Kind, used: dict[Hashable, Span], spans: dict[Kind, Span]) -> dict[Hashable, Unreadable]:
    """Add to `spans` the range shown of images of a kind, if there is one. Returns which can't be shown, and why."""
    try:
        spans[kind] = span = depth.span(kind, used.values())
    except Unreadable as error:
        return dict.fromkeys(used, error)
    dark = Unreadable(f"all but black: they use less than a 16th of {span}, the range of the set's {kind} samples")
    return {where: dark for where, its in used.items() if depth.is_dark(its, span)}
