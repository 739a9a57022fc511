"""TFLite metadata, read back field by field with flatbuffers' own table reader, and by MediaPipe."""

import json
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from flatbuffers import number_types as n
from needed import missing
from test_tflite import bit_of, confident, photos

from bitlite.litert import runtime
from bitlite.tflite import conversion
from bitlite.workflow.params import Int4, Integers, Uncalibrated

LABELS = ("tulip", "daisy, white", "Löwenzahn")
MEDIAPIPE = "1.2.3"
ENTRIES = (
    Uncalibrated(scheme="float32"),
    Integers(scheme="int8"),
    Int4(scheme="int4"),
    Uncalibrated(scheme="float32", softmax=True),
    Integers(scheme="int8", softmax=True),
)


@pytest.fixture(scope="module", params=ENTRIES, ids=lambda entry: entry.scheme + "-softmax" * entry.softmax)
def entry(request):
    return request.param


@pytest.fixture(scope="module")
def file(entry, tmp_path_factory):
    bit = confident(bit_of(filters=8, units=(1,), groups=4, labels=3))
    path = tmp_path_factory.mktemp("metadata") / "model.tflite"
    bit = bit.with_weights(bit.weights, labels=LABELS)
    path.write_bytes(conversion.convert(bit, entry, photos(8)))
    return path


class Read:
    """A table of a flatbuffer, read by the field numbers of metadata_schema.fbs."""

    def __init__(self, data, position):
        self.table = flatbuffers.table.Table(data, position)

    def __getitem__(self, number):
        return self.table.Offset(4 + 2 * number)

    def number(self, number, flags):
        return self.table.Get(flags, self.table.Pos + self[number])

    def text(self, number):
        return self.table.String(self.table.Pos + self[number]).decode()

    def inner(self, number):
        return Read(self.table.Bytes, self.table.Indirect(self.table.Pos + self[number]))

    def only(self, number):
        assert self.table.VectorLen(self[number]) == 1
        return Read(self.table.Bytes, self.table.Indirect(self.table.Vector(self[number])))

    def floats(self, number):
        return self.table.GetVectorAsNumpy(n.Float32Flags, self[number]).tolist()


def stored(path):
    """The buffer that the file's list of metadata calls TFLITE_METADATA."""
    model = flatbuffer_utils.read_model(str(path))
    (buffer,) = [each.buffer for each in model.metadata if each.name == b"TFLITE_METADATA"]
    return bytes(model.buffers[buffer].data)


def test_metadata_says_what_goes_in_and_out(file, entry):
    data = stored(file)
    assert data[4:8] == b"M001"
    root = Read(data, int.from_bytes(data[:4], "little"))
    assert root.text(0) == "bit-test" and "3 classes" in root.text(1) and root.text(7) == "1.0.0"
    graph = root.only(3)

    pixels = graph.only(2)
    assert pixels.text(0) == "pixels" and "0..255" in pixels.text(1)
    content = pixels.inner(3)
    assert content.number(0, n.Uint8Flags) == 2  # ImageProperties
    image = content.inner(1)
    assert image.number(0, n.Int8Flags) == 1  # RGB
    size = image.inner(1)
    assert (size.number(0, n.Uint32Flags), size.number(1, n.Uint32Flags)) == (16, 24)  # width, height
    unit = pixels.only(4)
    assert unit.number(0, n.Uint8Flags) == 1  # NormalizationOptions
    assert (unit.inner(1).floats(0), unit.inner(1).floats(1)) == ([0.0], [1.0])
    assert (pixels.inner(5).floats(0), pixels.inner(5).floats(1)) == ([255.0], [0.0])

    output = graph.only(3)
    assert output.text(0) == ("probabilities" if entry.softmax else "logits")
    assert output.inner(3).number(0, n.Uint8Flags) == 1  # FeatureProperties
    if entry.softmax:
        largest = 255 if entry.scheme == "int8" else 1
        assert (output.inner(5).floats(0), output.inner(5).floats(1)) == ([largest], [0])
    labels = output.only(6)
    assert labels.text(0) == "labels.txt" and labels.number(2, n.Int8Flags) == 2  # TENSOR_AXIS_LABELS


def test_any_zip_tool_reads_the_labels(file):
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None and archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().split("\n") == [*LABELS, ""]
        (entry,) = archive.infolist()
        # Where other readers, which do not look for what is before the archive, expect it too.
        assert file.read_bytes()[entry.header_offset :].startswith(b"PK\3\4")


def test_mediapipe_runs_the_file_and_knows_a_threshold(file, entry, tmp_path):
    images = photos(8, seed=3)
    everything, above = mediapipe_scores(file, images, tmp_path)
    expected = runtime.logits(file, images)
    for scores, row in zip(everything, expected.tolist(), strict=True):
        assert scores == pytest.approx(dict(zip(LABELS, row, strict=True)), abs=1e-3 * float(np.abs(expected).max()))
    assert above == [{name: score for name, score in scores.items() if score >= 0.5} for scores in everything]
    most = max(map(len, above))
    # Of probabilities one at most is above a half; of logits any number.
    assert most == 1 if entry.softmax else most > 1


def mediapipe_scores(file, images, directory):
    """What mediapipe_scores.py prints of `file` on `images`, which are put into `directory`."""
    np.save(directory / "images.npy", images)
    return json.loads(with_mediapipe("mediapipe_scores.py", file, directory / "images.npy"))


def with_mediapipe(script, *arguments):
    """What a script that lies here prints where MediaPipe is. uv keeps the environment in its cache."""
    command = [sys.executable, "-m", "uv", "run", "--quiet", "--no-project", "--isolated", "--python", sys.executable]
    run = partial(subprocess.run, capture_output=True, text=True)
    python = [*command, "--with", f"mediapipe=={MEDIAPIPE}", "python"]
    if (made := run([*python, "-c", ""])).returncode:
        missing(f"uv has no environment with MediaPipe: {made.stderr.strip()}")
    done = run([*python, Path(__file__).with_name(script), *arguments])
    assert not done.returncode, done.stderr
    return done.stdout
