"""Samples of more than 8 bits: what range of them is shown as black to white, and how they then look."""

import hashlib
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np

# A range that is not all used is black, or a few levels: of 256 levels, at least so many shall be in use.
FEWEST_LEVELS = 32
# An image is all but black if it uses less than this share of the range: 12 bits where others have 16.
DARK = 1 / 16


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
    # The range that the file gives.
    declared: Span | None = None
    # Whether the least value is white.
    inverted: bool = False

    def shown(self, span: Span, background: tuple[int, int, int]) -> np.ndarray:
        """RGB uint8 [height, width, 3]: `span` becomes 0..255, what lies outside is clipped."""
        black, white = span[::-1] if self.inverted else span
        # 32-bit integers need float64 to be told apart.
        exact = np.float32 if self.values.itemsize < 4 else np.float64
        levels = ((self.values.astype(exact) - black) * (255 / (white - black))).clip(0, 255)
        if levels.ndim == 2:
            levels = np.repeat(levels[..., None], 3, axis=-1)
        if self.alpha is not None:
            levels += (1 - self.alpha[..., None]) * (np.array(background) - levels)
        return np.rint(levels).astype(np.uint8)

    def digest(self) -> bytes:
        """SHA-256 of the values, not of how they are shown: the range of a set changes with its images."""
        values = self.values.astype("<f4" if self.values.dtype.kind == "f" else "<i4")
        alpha = b"" if self.alpha is None else self.alpha.astype("<f4").tobytes()
        form = repr((values.shape, self.declared, self.inverted)).encode()
        return hashlib.sha256(form + values.tobytes() + alpha).digest()


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


def is_dark(used: Span, shown: Span) -> bool:
    """Whether next to nothing could be seen of an image that uses this part of the range shown."""
    return used.high - shown.low < DARK * (shown.high - shown.low)
