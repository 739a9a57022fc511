"""Batches of augmented training images, prepared while the step before them is computed."""

import functools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bitlite.images.pixels import Pixels
from bitlite.training.recipe import Recipe

# The pixel that the network's normalisation makes 0.
GREY = 127.5

# Pixels float32 [batch, height, width, 3] in 0..255, and targets float32 [batch, classes] that sum to 1.
Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Images:
    """Images uint8 [count, height, width, 3] in 0..255, or their features, and their labels int32 [count]."""

    pixels: np.ndarray | Pixels
    labels: np.ndarray


def batches(images: Images, recipe: Recipe, classes: int, seed: int, first: int = 0) -> Iterator[Batch]:
    """The augmented batches of a run from its step `first` on, of `images` at the recipe's `resize`.

    Every epoch has an order of its own. With `flip` an image is mirrored in every other epoch, half of all in the
    first: chance would show many the same way for epochs (Jordan, arXiv:2404.00498, 3.6). A batch depends on the seed
    and its own step only.
    """
    count, side, margin = len(images.labels), recipe.image_size, recipe.padding
    corners = recipe.resize + 2 * margin - side + 1  # places of a crop along a side
    for step in range(first, recipe.steps):
        positions = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        epochs, places = divmod(positions, count)
        chosen = np.array([_permutation(seed, e, count)[p] for e, p in zip(epochs, places, strict=True)])
        pixels = images.pixels[chosen].astype(np.float32, copy=False)  # [batch, resize, resize, 3]
        random = np.random.default_rng((seed, 1, step))
        tops, lefts = random.integers(corners, size=(2, len(chosen)))
        mirrored = recipe.flip & ((_first_mirrored(seed, count)[chosen] + epochs) % 2 == 1)
        if margin:
            pixels = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
        if corners > 1 or recipe.flip:
            crops = (
                image[top : top + side, left : left + side][:, :: -1 if mirror else 1]
                for image, top, left, mirror in zip(pixels, tops, lefts, mirrored, strict=True)
            )
            pixels = np.stack(list(crops))  # [batch, side, side, 3]
        targets = np.eye(classes, dtype=np.float32)[images.labels[chosen]]
        if recipe.mixup:
            share = np.float32(random.beta(recipe.mixup, recipe.mixup))
            partner = random.permutation(len(chosen))
            pixels, targets = (share * each + (1 - share) * each[partner] for each in (pixels, targets))
        yield pixels, targets


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


@functools.lru_cache(maxsize=1)
def _first_mirrored(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 2)).permutation(count) % 2


def ahead(items: Iterator, depth: int = 2) -> Iterator:
    """The same items, up to `depth` of which a thread prepares before they are asked for."""
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, items, None))
            yield item
