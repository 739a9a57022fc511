"""The images of a prepared data set as an array that memory need not hold."""

import io

import numpy as np
import pytest
from PIL import Image

from bitlite.images import dataset
from bitlite.workflow.errors import InputError

COUNT = 12


@pytest.fixture
def prepared(tmp_path):
    random = np.random.default_rng(0)
    examples = []
    for index in range(COUNT):
        file = io.BytesIO()
        Image.fromarray(random.integers(256, size=(10 + index, 14, 3), dtype=np.uint8)).save(file, "png")
        examples.append((file.getvalue(), index % 3))
    dataset.write(
        tmp_path / "set", ["a", "b", "c"], {"train": lambda: iter(examples), "test": lambda: iter(examples[:2])}
    )
    return tmp_path / "set"


@pytest.fixture
def expected(prepared):
    images = (Image.open(io.BytesIO(encoded)) for encoded, _ in dataset.examples("train", prepared))
    return np.stack([np.asarray(image.resize((8, 6), Image.Resampling.BILINEAR)) for image in images])


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_any_part_is_what_the_whole_holds(prepared, expected, cache_mb):
    pixels, labels = dataset.read("train", (6, 8), prepared, cache_mb=cache_mb)
    assert pixels.shape == expected.shape == (COUNT, 6, 8, 3)
    assert len(pixels) == len(labels) == COUNT
    for _ in range(2):
        assert np.array_equal(pixels[[7, 0, 7]], expected[[7, 0, 7]])
        assert np.array_equal(pixels[3:9:2], expected[3:9:2])
        assert np.array_equal(pixels[-1], expected[-1])
        assert np.array_equal(np.stack(list(pixels)), expected)
        assert pixels[:0].shape == (0, 6, 8, 3)
    assert pixels[:].dtype == np.uint8


def test_image_that_is_kept_is_not_decoded_again(prepared, expected):
    pixels, _ = dataset.read("train", (6, 8), prepared, cache_mb=1)
    pixels[2:9]
    for path in prepared.glob("*.tfrecord*"):
        path.unlink()
    assert np.array_equal(pixels[2:9], expected[2:9])
    with pytest.raises(InputError, match="does not hold all of its images"):
        pixels[1:4]


def test_no_more_than_the_bound_is_kept(tmp_path, prepared):
    # 400 x 300 x 3 bytes an image: two in a MB.
    pixels, _ = dataset.read("train", (400, 300), prepared, cache_mb=1)
    pixels[:]
    for path in prepared.glob("*.tfrecord*"):
        path.unlink()
    pixels[:2]
    with pytest.raises(InputError):
        pixels[2]


def test_digest_tells_data_sets_apart(prepared):
    before = dataset.digest(prepared)
    assert dataset.digest(prepared) == before
    (path,) = prepared.glob("*test*.tfrecord*")
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    assert dataset.digest(prepared) != before
