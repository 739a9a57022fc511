"""Each image of a source is looked at once: whether it can be read, what it is known by, how it will be stored."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

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
    # Those whose files the prepared data set can't hold as they are.
    encoded: set[Place]
    # Images of more than 8 bits whose files do not say what is black and what white, and the range found for each kind.
    deep: dict[Kind, list[Place]]
    spans: dict[Kind, Span]
    # Those whose files hold others behind the one that is shown.
    several: list[Place]
    background: str

    def stored(self, where: Place, content: bytes) -> bytes:
        """The file of this `content` as the data set holds it: itself, or a PNG."""
        if where not in self.encoded:
            return content
        return decoding.png(decoding.upright_rgb(content, background=self.background, spans=self.spans))


def inspect(
    located: Callable[[Collection | None], Iterable[Located[Place]]], background: str = "white"
) -> Inspection[Place]:
    """Decode every image of a source once, on all cores, and again those that can't be known otherwise.

    located: goes through the images at some places, or with None through all, and is called up to three times.
    """
    seen: dict[Place, Seen] = {}
    failed: dict[Place, Exception] = {}
    for where, result in in_parallel(lambda image: _attempt(image, background), located(None)):
        if isinstance(result, Exception):
            failed[where] = result
        else:
            seen[where] = result
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
    encoded = {where for where, image in seen.items() if not image.kept}
    looks = {where: image.look for where, image in seen.items()}
    several = [where for where, image in seen.items() if image.several]
    return Inspection(digests, looks, failed, encoded, deep, spans, several, background)


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
