"""Name the classes that images show, by a .tflite file and what it says of itself.

    python -m ship.predict photo.jpg folder/of/images
    curl -s https://example.org/photo.jpg | python -m ship.predict --json -

The file is the released one, or any image classifier with TFLite metadata. An image goes in as in the workflow's own
evaluation, so a test image gets the scores that its accuracy was counted on. An image that can't be read is told on
standard error, and the others go on. Exit code: 0; 1 if there was such an image, or no image at all, or no model.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageColor

from bitlite.images import decoding
from bitlite.images.depth import Unreadable
from bitlite.litert import runtime
from bitlite.litert.signature import Tensor
from bitlite.sources import pictures
from bitlite.workflow import scores
from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError, listed, one_line, printable
from ship import options

# By this very object standard input is meant, and not by any path that reads the same.
STDIN = Path("-")


class Prediction(NamedTuple):
    label: str
    # 0..1.
    probability: float


class Classifier:
    """A .tflite file that names the class of an image file."""

    def __init__(self, path: Path, background: str = "white") -> None:
        """Raises InputError if the file can't be used, or does not say how. Transparent pixels lie on `background`."""
        self._description = options.described(path)
        try:
            self._classifier = runtime.Classifier(path)
        except RuntimeError as error:
            raise InputError(f"{path} can't be run by LiteRT here: {one_line(error)}") from error
        self._background = background

    def predictions(self, content: bytes) -> list[Prediction]:
        """All classes, the most probable first; of equal scores the lower class. Raises Unreadable."""
        found = self.scores(content)
        (probabilities,) = found[None] if self._description.probabilities else scores.softmax(found[None])
        labels = self._description.labels
        return [Prediction(labels[place], float(probabilities[place])) for place in np.argsort(-found, kind="stable")]

    def scores(self, content: bytes) -> np.ndarray:
        """What the file gives for an image file of this `content`: float32 [classes]. Raises Unreadable."""
        try:
            pixels = decoding.pixels(content, self._classifier.image_size, background=self._background)
        except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
            raise Unreadable(pictures.fault(content[:1024], len(content), error)) from error
        return self._classifier.scores(self._stored(pixels)).ravel()

    def _stored(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels uint8 [height, width, 3] in the values that the file's input stores."""
        if self._description.normalization is None:
            return pixels
        mean, std = self._description.normalization
        values = (pixels.astype(np.float32) - mean) / std
        entry = Tensor.of(self._classifier.input)
        if not np.issubdtype(entry.dtype, np.integer):
            return values
        limits = np.iinfo(entry.dtype)
        steps = values / entry.scale + entry.zero_point if entry.scale else pixels
        return np.rint(steps).clip(limits.min, limits.max)


def images(given: str) -> Iterator[Path | OSError]:
    """The file of this path or, of a folder's, all images below it, sorted, and the errors of folders not listed.

    Hidden files and what systems leave beside one's own are left out, and links to folders followed once.
    """
    if not os.path.isdir(given) or given == str(STDIN):
        yield STDIN if given == str(STDIN) else Path(given)
        return
    errors: list[OSError] = []
    found: list[str] = []
    read = {os.path.realpath(above) for above in Path(os.path.abspath(given)).parents}
    for here, folders, files in os.walk(given, onerror=errors.append, followlinks=True):
        real = os.path.realpath(here)
        if real in read:
            folders.clear()
            continue
        read.add(real)
        folders[:] = (name for name in folders if not pictures.is_litter(name))
        found += (os.path.join(here, name) for name in files if not pictures.is_litter(name))
    yield from errors
    meant = {path for path in found if os.path.isfile(path) and pictures.meant_as_image(path)}
    yield from sorted(map(Path, pictures.without_companions(meant)))


def content(path: Path) -> bytes:
    """Of a file, or of standard input. Raises Unreadable."""
    try:
        with open(0 if path is STDIN else path, "rb", closefd=path is not STDIN) as file:
            return file.read()
    except OSError as error:
        raise Unreadable(error.strerror) from error


def parser() -> argparse.ArgumentParser:
    command = options.parser("ship.predict", __doc__)
    command.add_argument(
        "images", metavar="IMAGE", nargs="+", help=f"a file, a folder of any depth, or {STDIN} for standard input"
    )
    options.add_model(command)
    command.add_argument(
        "--top", type=options.whole(1), default=5, metavar="N", help="how many classes (default: %(default)s)"
    )
    command.add_argument(
        "--background", type=colour, default="white", metavar="COLOUR",
        help="what transparent pixels lie on, as dataset.background (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="a JSON object a line: file, and predictions or error")
    return command


def colour(text: str) -> str:
    ImageColor.getrgb(text)
    return text


def told(path: Path, predictions: list[Prediction], as_json: bool) -> str:
    """What is printed of an image."""
    if as_json:
        return json.dumps({"file": str(path), "predictions": [each._asdict() for each in predictions]})
    rows = (f"{each.probability:6.1%}  {printable(each.label)}" for each in predictions)
    return "\n".join([printable(str(path)), *rows])


def main(*arguments: str) -> None:
    asked = parser().parse_args(arguments)
    classifier = Classifier(asked.model, asked.background)
    seen = failed = 0

    def fail(name: str, reason: str) -> None:
        nonlocal failed
        failed += 1
        print(printable(f"{name}: {reason}"), file=sys.stderr)
        if asked.json:
            print(json.dumps({"file": name, "error": reason}), flush=True)

    for path in (each for given in asked.images for each in images(given)):
        if isinstance(path, OSError):
            fail(path.filename, path.strerror or str(path))
            continue
        seen += 1
        try:
            predictions = classifier.predictions(content(path))
        except Unreadable as error:
            fail(str(path), str(error))
        else:
            print(told(path, predictions[: asked.top], asked.json), flush=True)
    if not seen:
        raise InputError(f"no images in {listed(asked.images)}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
