"""Samples of more than 8 bits: what range of them is shown as black to white, and how they then look."""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np

# A range that is not all used is black, or a few levels: of 256 levels, at least so many shall be in use.
FEWEST_LEVELS = 32
# An image is all but black if it uses less than this share of the range: 12 bits where others have 16.
DARK = 1 / 16
# Share of an image's pixels that may be brighter without making it any less dark.
HOT = 1 / 1000


class Unreadable(ValueError):
    """A file that is no image, or none that can be shown. The message is the reason, in a few words."""


class Span(NamedTuple):
    """A range of samples, both ends included."""

    low: float
    high: float

    def holds(self, other: "Span") -> bool:
        return self.low <= other.low and other.high <= self.high

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


class Kind(NamedTuple):
    """What a file says of its samples. Files of one kind share a range."""

    # The name of a NumPy type.
    type: str
    # How many bits of the type's hold a value; None if the file does not say.
    significant: int | None = None

    def __str__(self) -> str:
        return self.type + (f" of {self.significant} bits" if self.significant else "")


class Samples(NamedTuple):
    """The upright pixels of an image that has more than 8 bits a sample."""

    # [height, width] grey, or [height, width, 3] RGB.
    values: np.ndarray
    # 0 (transparent) to 1, [height, width]; None: opaque.
    alpha: np.ndarray | None
    kind: Kind
    # From the least value to the largest, but for transparent pixels.
    used: Span
    # The largest value of those pixels, but for the brightest: hot ones of a sensor show nothing.
    bright: float
    # The range that the file gives.
    declared: Span | None = None
    # Whether the least value is white.
    inverted: bool = False

    def shown(self, span: Span, background: tuple[int, ...]) -> np.ndarray:
        """RGB uint8 [height, width, 3]: `span` becomes 0..255, what lies outside is clipped."""
        black, white = span[::-1] if self.inverted else span
        # 32-bit integers need float64 to be told apart.
        exact: type[np.floating] = np.float32 if self.values.itemsize < 4 else np.float64
        levels = ((self.values.astype(exact) - black) * (255 / (white - black))).clip(0, 255)
        if levels.ndim == 2:
            levels = np.repeat(levels[..., None], 3, axis=-1)
        if self.alpha is not None:
            levels += (1 - self.alpha[..., None]) * (np.array(background) - levels)
        return np.rint(levels).astype(np.uint8)


def span(kind: Kind, used: Iterable[Span]) -> Span:
    """The range shown as black to white for a set of images of one kind, by the ranges that each of them uses.

    It starts at 0 and ends at the largest value of as many bits as the largest sample needs, or at 1 for floats up to
    there. Where that would leave FEWEST_LEVELS or less of 256, and with negative samples, it is what the set uses.

    Raises Unreadable if all samples of the set are the same.
    """
    low, high = reduce(lambda a, b: Span(min(a.low, b.low), max(a.high, b.high)), used)
    if low == high:
        raise Unreadable(f"all {kind} samples of the set are {low:g}")
    if kind.significant:
        # PNG puts significant bits on top (PNG 3rd edition, 11.3.2.7); cameras leave them below.
        return Span(0, 2**kind.significant - 1 if high < 2**kind.significant else 2**16 - 1)
    top = 1 if kind.type == "float32" and high <= 1 else 2 ** max(8, int(np.ceil(high)).bit_length()) - 1
    return Span(0, top) if low >= 0 and high - low > top * FEWEST_LEVELS / 256 else Span(low, high)


def bright(pixels: np.ndarray) -> float:
    """The largest sample of pixels [pixels, channels] but for HOT of them, one at least."""
    largest = pixels.max(-1)
    place = max(0, len(largest) - 1 - max(1, int(HOT * len(largest))))
    return np.partition(largest, place)[place].item()


def is_dark(bright: float, shown: Span) -> bool:
    """Whether next to nothing could be seen of an image in the range shown."""
    return bright - shown.low < DARK * (shown.high - shown.low)
