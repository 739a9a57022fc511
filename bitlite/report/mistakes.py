"""The test images that a variant puts into the wrong class, as thumbnails."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from bitlite.images.decoding import upright_rgb
from bitlite.images.records import Example

SHOWN = 24
# Pixels of the longer side of a thumbnail, twice what the page takes: for fine screens. Smaller ones stay as they are.
SIDE = 192


@dataclass(frozen=True)
class Mistake:
    """A test image in the wrong class.

    confidence: that of the prediction, 0..1; None if it is not known. picture: an address that starts with data:.
    size: width and height of the picture in pixels.
    """

    actual: str
    predicted: str
    confidence: float | None
    picture: str
    size: tuple[int, int]


def worst(predictions: Sequence[Mapping[str, str]], examples: Iterable[Example]) -> list[Mistake]:
    """At most SHOWN wrong ones of the test images, those first of which the variant was surest.

    predictions: a row for each of `examples`, in the same order.
    """
    wrong = [number for number, row in enumerate(predictions) if row["actual"] != row["predicted"]]
    shown = sorted(wrong, key=lambda number: -(_confidence(predictions[number]) or 0))[:SHOWN]
    first = islice(enumerate(examples), max(shown, default=-1) + 1)
    images = {number: encoded for number, (encoded, _) in first if number in shown}
    return [_mistake(predictions[number], upright_rgb(images[number])) for number in shown]


def _mistake(row: Mapping[str, str], image: Image.Image) -> Mistake:
    exact = max(image.size) <= SIDE
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    # Few pixels are to be seen as they are.
    image.save(content, "PNG" if exact else "JPEG", **({} if exact else {"quality": 80}))
    kind = "png" if exact else "jpeg"
    address = f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
    return Mistake(row["actual"], row["predicted"], _confidence(row), address, image.size)


def _confidence(row: Mapping[str, str]) -> float | None:
    return float(row["confidence"]) if row.get("confidence") else None
