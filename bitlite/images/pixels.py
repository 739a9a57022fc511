"""The images of a split as an array that memory need not hold."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bitlite.workflow.cores import cores


class Pixels:
    """Images as an array uint8 [images, height, width, 3] in 0..255, decoded as they are asked for, in threads.

    Indexed by an integer, a slice or an array of integers. Once decoded, the first images stay in memory, as many as
    `cache_mb` (10^6 bytes) holds.
    """

    def __init__(
        self, count: int, size: tuple[int, int], decode: Callable[[int], np.ndarray], *, cache_mb: int
    ) -> None:
        """`decode` gives the image of a number below `count`: uint8 [height, width, 3] of this `size`."""
        self.shape = (count, *size, 3)
        self._decode = decode
        kept = min(count, cache_mb * 10**6 // max(1, math.prod(self.shape[1:])))
        # Memory that is not written to is not taken.
        self._cache, self._cached = np.empty((kept, *self.shape[1:]), np.uint8), np.zeros(count, bool)
        self._threads = ThreadPoolExecutor(cores())

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._image, range(len(self)))

    def __getitem__(self, chosen) -> np.ndarray:
        chosen = np.arange(len(self))[chosen]
        if chosen.ndim == 0:
            return self._image(chosen)
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        cached = self._cached[chosen]
        pixels[cached] = self._cache[chosen[cached]]

        def fill(places: np.ndarray) -> None:
            for place in places:
                pixels[place] = self._image(chosen[place])

        list(self._threads.map(fill, np.array_split(np.flatnonzero(~cached), cores())))
        return pixels

    def chosen(self, numbers: np.ndarray) -> "Pixels":
        """The images of these numbers, decoded each time that they are gone through."""
        return Pixels(len(numbers), self.shape[1:3], lambda place: self._image(numbers[place]), cache_mb=0)

    def _image(self, number: int) -> np.ndarray:
        if self._cached[number]:
            return self._cache[number]
        image = self._decode(number)
        if number < len(self._cache):
            self._cache[number] = image
            self._cached[number] = True
        return image
