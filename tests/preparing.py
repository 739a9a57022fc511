"""Data sets of a few small images, prepared."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitlite.images import dataset
from bitlite.images.records import Example
from bitlite.sources.prepare import prepare
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Dataset


def prepared(directory: Path, name, **settings) -> Path:
    prepare(Dataset(name=str(name), **settings), directory)
    return directory


def stored(directory: Path, split: str) -> list[Example]:
    return list(dataset.examples(split, directory))


def noise(seed: int, height=9, width=12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    return encoded(image, "PNG")


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def write_folder(folder: Path, *, seed: int = 0, **counts: int) -> Path:
    """Folders of `counts` images of noise, none like another, nor like those of a distant seed."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise(seed + 1000 * label + index).save(folder / name / f"{index}.png")
    return folder


def files(directory: Path) -> dict[str, bytes]:
    """The content of each file of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def refusal(directory: Path, name, **settings) -> str:
    with pytest.raises(InputError) as error:
        prepared(directory, name, **settings)
    assert not directory.exists()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)
