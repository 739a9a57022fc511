"""Naming the classes that images show: of files written by hand, as the evaluation and as MediaPipe have them."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils
from picture_files import png_chunk, png_file
from PIL import Image, ImageDraw
from preparing import encoded, noise, prepared, write_folder
from test_metadata import mediapipe_scores, with_mediapipe
from test_tflite import bit_of, confident, photos

from bitlite.images import dataset
from bitlite.images.depth import Unreadable
from bitlite.litert import metadata, runtime
from bitlite.tflite import conversion
from bitlite.tflite.graph import to_file
from bitlite.tflite.lowering import lower
from bitlite.tflite.metadata import with_labels
from bitlite.workflow.errors import InputError
from bitlite.workflow.files import read_csv
from bitlite.workflow.params import Integers, Uncalibrated
from ship import predict
from ship.predict import Classifier

PROJECT = Path(__file__).parents[1]
RELEASE = PROJECT / "models/release/model.tflite"
HOSTILE = "<b>red</b>\x1b[31m\x9b2J"
LABELS = ("tulip", "Löwenzahn, weiß", HOSTILE)
ENTRIES = {
    "float32": Uncalibrated(scheme="float32"),
    "int8": Integers(scheme="int8"),
    "softmax": Uncalibrated(scheme="float32", softmax=True),
    "int8_softmax": Integers(scheme="int8", softmax=True),
}
# Larger than the 24 x 16 that the files take.
PHOTO = photos(1, (80, 60), seed=5)[0]


@pytest.fixture(scope="module")
def bit():
    bit = confident(bit_of(filters=8, units=(1,), groups=4, labels=3))
    return bit.with_weights(bit.weights, labels=LABELS)


@pytest.fixture(scope="module")
def files(bit, tmp_path_factory):
    directory = tmp_path_factory.mktemp("predict")
    for name, entry in ENTRIES.items():
        (directory / name).write_bytes(conversion.convert(bit, entry, photos(8)))
    return {name: directory / name for name in ENTRIES}


@pytest.fixture(scope="module")
def classify(files):
    """The scores that the float32 file gives for the content of an image file."""
    return Classifier(files["float32"]).scores


def png(pixels) -> bytes:
    return encoded(Image.fromarray(np.rint(pixels).astype(np.uint8)), "PNG")


def run(*arguments, stdin: bytes = b"") -> subprocess.CompletedProcess:
    """The command line, in a process of its own."""
    command = [sys.executable, "-m", "ship.predict", *map(os.fspath, arguments)]
    return subprocess.run(command, cwd=PROJECT, input=stdin, capture_output=True)


def lines(output: bytes) -> list[str]:
    return output.decode().splitlines()


# The same as the evaluation


@pytest.mark.parametrize("name", ENTRIES)
def test_an_image_gets_the_scores_that_the_evaluation_counts(name, files, tmp_path):
    folder = write_folder(tmp_path / "photos", cats=10, dogs=10)
    noise(7, 40, 33).convert("P").save(folder / "cats" / "palette.png")
    noise(8, 40, 33).save(folder / "dogs" / "photo.jpg")
    directory = prepared(tmp_path / "dataset", folder)
    classifier = Classifier(files[name])
    for split in dataset.SPLITS:
        pixels, _ = dataset.read(split, (24, 16), directory)
        found = [classifier.scores(content) for content, _ in dataset.examples(split, directory)]
        assert len(found) > 1 and np.array_equal(found, runtime.logits(files[name], pixels))


def test_test_images_fall_into_the_classes_that_the_default_run_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    summary = Path("metrics/summary.json")
    variant = json.loads(summary.read_text())["selected"]
    evaluated, table = Path(f"models/tflite/{variant}.tflite"), Path(f"plots/evaluate/{variant}/predictions.csv")
    if not RELEASE.exists() or not evaluated.exists() or not Path("data/dataset").exists():
        pytest.skip("`dvc repro` has not made models/release, models/tflite and data/dataset")
    if RELEASE.read_bytes() != evaluated.read_bytes():
        pytest.skip(f"models/release is not of {variant}: `dvc repro` has not come to its end")
    for number, (content, _) in enumerate(dataset.examples("test")):
        (tmp_path / f"{number:04}.png").write_bytes(content)
    done = run(tmp_path, "--json", "--top", "1")
    found = [json.loads(line)["predictions"][0]["label"] for line in lines(done.stdout)]
    assert done.returncode == 0 and found == [row["predicted"] for row in read_csv(table)]


def test_the_default_release_reads_a_digit_drawn_by_hand(tmp_path):
    if not RELEASE.exists():
        pytest.skip("`dvc repro` has not made models/release")
    strokes = {"7": [(60, 60), (220, 60), (120, 240)], "1": [(140, 40), (140, 240)]}
    for digit, points in strokes.items():
        drawn = Image.new("L", (280, 280))
        ImageDraw.Draw(drawn).line(points, fill=255, width=26, joint="curve")
        drawn.save(tmp_path / f"{digit}.png")
    done = run(tmp_path, "--json")
    found = {Path(each["file"]).stem: each["predictions"][0] for each in map(json.loads, lines(done.stdout))}
    assert {name: best["label"] for name, best in found.items()} == {"7": "7", "1": "1"}
    assert all(best["probability"] > 0.5 for best in found.values())


# Files of every kind

PALETTE = Image.fromarray(PHOTO).quantize(16)
CMYK = np.concatenate([PHOTO, PHOTO[:, ::-1, :1] // 2], axis=-1)
ALPHA = np.linspace(0, 255, PHOTO.shape[0] * PHOTO.shape[1]).reshape(PHOTO.shape[:2]).astype(np.uint8)


def grey(values) -> np.ndarray:
    return np.repeat(np.asarray(values)[..., None], 3, axis=-1)


def laid(pixels, background=(255, 255, 255)) -> np.ndarray:
    opaque = ALPHA[..., None] / 255
    return pixels * opaque + np.array(background) * (1 - opaque)


KINDS = {
    "RGB": (png(PHOTO), PHOTO),
    "palette": (encoded(PALETTE, "GIF"), np.array(PALETTE.getpalette()).reshape(-1, 3)[np.asarray(PALETTE)]),
    "grey": (png(PHOTO[..., 0]), grey(PHOTO[..., 0])),
    "one bit": (png_file(PHOTO[..., 0] > 127, bits=1, color=0), grey(255 * (PHOTO[..., 0] > 127))),
    "16 bits": (
        png_file(257 * PHOTO.astype(int), bits=16, color=2, before=png_chunk(b"sBIT", bytes([16] * 3))),
        PHOTO,
    ),
    "CMYK": (
        encoded(Image.fromarray(CMYK, "CMYK"), "TIFF"),
        (255.0 - CMYK[..., :3]) * (255 - CMYK[..., 3:].astype(float)) / 255,
    ),
    "RGBA": (png(np.dstack([PHOTO, ALPHA])), laid(PHOTO)),
    "grey and alpha": (png(np.dstack([PHOTO[..., 0], ALPHA])), laid(grey(PHOTO[..., 0]))),
    "WebP": (encoded(Image.fromarray(PHOTO), "WEBP", lossless=True), PHOTO),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_any_kind_is_shown_as_people_see_it(kind, classify):
    content, seen = KINDS[kind]
    # Levels are rounded in one place or another.
    assert classify(content) == pytest.approx(classify(png(seen)), abs=0.05)


def test_the_kinds_could_be_told_apart(classify):
    scores = np.array([classify(content) for kind, (content, _) in KINDS.items() if kind not in ("16 bits", "WebP")])
    differences = np.abs(scores[:, None] - scores).max(axis=-1)
    assert differences[~np.eye(len(scores), dtype=bool)].min() > 0.1


# How a viewer turns what is stored (EXIF 2.3, 4.6.4): where its first row and its first column are shown.
UPRIGHT = {
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_turned_image_is_stood_upright(orientation, kind, classify):
    image = Image.fromarray(PHOTO)
    exif = image.getexif()
    exif[0x0112] = orientation
    content = encoded(image, kind, exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(classify(content), classify(png(UPRIGHT[orientation](stored))))
    assert np.abs(classify(content) - classify(png(stored))).max() > 0.05


def test_transparent_pixels_lie_on_the_background_asked_for(files, classify):
    on_blue = Classifier(files["float32"], "#0000ff").scores(KINDS["RGBA"][0])
    assert on_blue == pytest.approx(classify(png(laid(PHOTO, (0, 0, 255)))), abs=0.05)
    assert np.abs(on_blue - classify(KINDS["RGBA"][0])).max() > 0.1


def test_samples_of_unknown_range_are_refused(classify):
    with pytest.raises(Unreadable, match=r"^uint16 samples of which it is not known .*, to be saved in 8 bits$"):
        classify(png_file(257 * PHOTO.astype(int), bits=16, color=2))


# The command line


@pytest.mark.parametrize("name", ENTRIES)
def test_all_classes_have_their_probabilities(name, files):
    found = Classifier(files[name]).predictions(png(PHOTO))
    (expected,) = runtime.logits(files[name], [np.asarray(Image.fromarray(PHOTO).resize((16, 24), 2))])
    if "softmax" not in name:
        expected = np.exp(expected) / np.exp(expected).sum()
    assert dict(found) == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=1e-6)
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)
    assert max(expected) - min(expected) > 0.2


def test_the_best_are_printed_under_the_name_of_the_file(files, tmp_path):
    (tmp_path / "photo.png").write_bytes(png(PHOTO))
    done = run(tmp_path / "photo.png", "--model", files["float32"], "--top", "2")
    found = Classifier(files["float32"]).predictions(png(PHOTO))[:2]
    shown = {HOSTILE: "<b>red</b>\\x1b[31m\\x9b2J"}
    rows = [f"{share:6.1%}  {shown.get(label, label)}" for label, share in found]
    assert lines(done.stdout) == [str(tmp_path / "photo.png"), *rows]
    assert (done.returncode, done.stderr) == (0, b"")


def test_json_has_an_object_a_line(files, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(PHOTO))
    done = run(tmp_path, "--model", files["int8"], "--json", "--top", "9")
    predictions = [
        {"label": label, "probability": share} for label, share in Classifier(files["int8"]).predictions(png(PHOTO))
    ]
    assert len(predictions) == 3
    assert [json.loads(line) for line in lines(done.stdout)] == [
        {"file": str(tmp_path / name), "predictions": predictions} for name in ("a.png", "b.png")
    ]
    assert done.stdout.isascii()  # whatever the names hold, and the console


def test_standard_input_is_an_image(files):
    done = run("-", "--model", files["float32"], stdin=png(PHOTO))
    assert done.returncode == 0 and lines(done.stdout)[0] == "-" and len(lines(done.stdout)) == 4


def test_a_folder_stands_for_its_images_in_order(files, tmp_path):
    inside = ("a/2.png", "a/10.png", "b/c/1.PNG", "z.png")
    beside = (".hidden.png", ".thumbnails/1.png", "@eaDir/1.png", "a/notes.txt", "z.cr2")
    for name in (*inside, *beside):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(PHOTO) if not name.endswith("txt") else b"text")
    (tmp_path / "b/back").symlink_to(tmp_path)
    (tmp_path / "a/without_suffix").write_bytes(png(PHOTO))
    os.mkfifo(tmp_path / "a/pipe.png")
    found = [str(path.relative_to(tmp_path)) for path in predict.images(str(tmp_path))]
    assert found == ["a/10.png", "a/2.png", "a/without_suffix", "b/c/1.PNG", "z.png"]


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.png").write_bytes(png(PHOTO))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path / "elsewhere")
    assert list(predict.images(str(tmp_path / "folder"))) == [tmp_path / "folder/link/1.png"]


def test_one_bad_image_does_not_stop_the_others(files, tmp_path):
    (tmp_path / "1.png").write_bytes(png(PHOTO))
    (tmp_path / "2.png").write_bytes(png(PHOTO)[:200])
    (tmp_path / "3.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / "4.png").write_bytes(b"")
    (tmp_path / "5.png").write_bytes(png(PHOTO))
    # By a TIFF reader's own warnings, which name no file.
    (tmp_path / "6.tif").write_bytes(encoded(Image.fromarray(PHOTO), "TIFF", compression="tiff_lzw")[:300])
    done = run(tmp_path, tmp_path / "nowhere.png", "--model", files["float32"], "--json")
    found = [json.loads(line) for line in lines(done.stdout)]
    errors = {Path(each["file"]).name: each["error"] for each in found if "error" in each}
    assert [Path(each["file"]).name for each in found if "predictions" in each] == ["1.png", "5.png"]
    assert errors["2.png"] == "truncated"
    assert "web pages" in errors["3.jpg"]
    assert errors["4.png"] == "empty"
    assert errors["nowhere.png"] == "No such file or directory"
    assert lines(done.stderr) == [f"{each['file']}: {each['error']}" for each in found if "error" in each]
    assert done.returncode == 1 and len(found) == 7


def test_without_an_image_or_a_model_there_is_one_line(files, bit, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").write_bytes(to_file(lower(bit)))
    (tmp_path / "text").write_text("no model at all")
    (tmp_path / "cut").write_bytes(files["float32"].read_bytes()[:5000])
    for arguments, line in {
        (tmp_path / "empty", "--model", files["float32"]): f"no images in {tmp_path}/empty",
        ("-", "--model", tmp_path / "gone"): f"{tmp_path}/gone: No such file or directory",
        ("-", "--model", tmp_path): f"{tmp_path}: Is a directory",
        ("-", "--model", tmp_path / "text"): f"{tmp_path}/text is no .tflite file",
        ("-", "--model", tmp_path / "cut"): f"{tmp_path}/cut is no .tflite file that LiteRT can run (",
        ("-", "--model", tmp_path / "bare"): f"{tmp_path}/bare has no TFLite metadata, which says ",
    }.items():
        done = run(*arguments)
        assert (done.returncode, done.stdout, len(lines(done.stderr))) == (1, b"", 1), done
        assert lines(done.stderr)[0].startswith(line)
    for arguments in ((), ("x.png", "--top", "0"), ("x.png", "--background", "no colour")):
        done = run(*arguments)
        assert done.returncode == 2 and lines(done.stderr)[-1].startswith("python -m ship.predict: error: ")


def test_the_released_file_is_missed_by_the_name_of_what_makes_it(tmp_path):
    command = [sys.executable, "-m", "ship.predict", "x.png"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"models/release/model.tflite is missing: run `dvc repro`\n")


def test_names_of_files_can_not_reach_the_console(files, tmp_path):
    good, bad = (os.fsencode(tmp_path) + b"/" + name for name in (b"a\n\x1b[31m\xff.png", b"b\r\x1b]0;x\x07.png"))
    for path, content in ((good, png(PHOTO)), (bad, b"broken")):
        with open(path, "wb") as file:
            file.write(content)
    done = run(tmp_path, "--model", files["float32"])
    for output in (done.stdout, done.stderr):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", output.decode())
    assert len(lines(done.stdout)) == 4 and lines(done.stdout)[0].endswith(r"/a\n\x1b[31m\udcff.png")
    assert len(lines(done.stderr)) == 1 and r"/b\r\x1b]0;x\x07.png: none of JPEG" in lines(done.stderr)[0]
    as_json = [json.loads(line) for line in lines(run(tmp_path, "--model", files["float32"], "--json").stdout)]
    assert [os.fsencode(each["file"]) for each in as_json] == [good, bad]


def test_nothing_slow_is_imported():
    code = "import sys, ship.predict; print({'tensorflow', 'tensorflow_datasets', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# Files that others made


# In a process of its own: TensorFlow's calibration can't be loaded beside LiteRT's.
KERAS = """
import sys
import numpy as np
import tensorflow as tf

tf.keras.utils.set_random_seed(1)
layers, spread = tf.keras.layers, tf.keras.initializers.RandomNormal(stddev=3)
convolution = layers.Conv2D(8, 3, strides=2, activation="relu")
head = layers.Dense(3, kernel_initializer=spread)
network = tf.keras.Sequential([convolution, layers.GlobalAveragePooling2D(), head, layers.Softmax()])
network.build((1, 24, 16, 3))
converter = tf.lite.TFLiteConverter.from_keras_model(network)
open("float32", "wb").write(converter.convert())
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([image[None]] for image in np.load("images.npy") / 127.5 - 1)
converter.inference_input_type = converter.inference_output_type = tf.uint8
open("uint8", "wb").write(converter.convert())
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Networks of Keras's converted by TensorFlow, which take normalised pixels, and give probabilities."""
    directory = tmp_path_factory.mktemp("foreign")
    np.save(directory / "images.npy", photos(16).astype(np.float32))
    subprocess.run([sys.executable, "-c", KERAS], cwd=directory, check=True, capture_output=True)
    return {name: directory / name for name in ("float32", "uint8")}


def described(file, directory, mean, std):
    """A copy of `file` with metadata by MediaPipe."""
    path = directory / "described.tflite"
    path.write_bytes(file.read_bytes())
    with_mediapipe("mediapipe_metadata.py", path, json.dumps(mean), json.dumps(std), "red", "green blue", "ß")
    return path


@pytest.mark.parametrize(("name", "mean", "std"), [("float32", 110.0, 60.0), ("uint8", 127.5, 127.5)])
def test_a_file_that_others_made_is_run_as_mediapipe_does(name, mean, std, foreign, tmp_path):
    path, images = described(foreign[name], tmp_path, [mean], [std]), photos(6, seed=9)
    (expected, _) = mediapipe_scores(path, images, tmp_path)
    classifier = Classifier(path)
    for image, scores in zip(images, expected, strict=True):
        # MediaPipe leaves pixels for uint8 as they are, which is up to a step off what the metadata says.
        assert dict(classifier.predictions(png(image))) == pytest.approx(scores, abs=0.01)
    assert np.std([list(scores.values()) for scores in expected], axis=0).max() > 0.03


def test_each_colour_may_be_normalised_by_its_own(foreign, tmp_path):
    mean, std = [100.0, 110, 120], [50.0, 60, 70]
    path = described(foreign["float32"], tmp_path, mean, std)
    model = tf.lite.Interpreter(str(path))
    model.allocate_tensors()
    for image in photos(3, seed=9):
        model.set_tensor(model.get_input_details()[0]["index"], ((image - mean) / std).astype(np.float32)[None])
        model.invoke()
        (expected,) = model.get_tensor(model.get_output_details()[0]["index"])
        assert Classifier(path).scores(png(image)) == pytest.approx(expected, abs=1e-5)


def test_what_a_file_does_not_say_is_told(files, bit, tmp_path):
    content = files["float32"].read_bytes()
    end = content.index(b"PK\3\4")
    for name, changed, said in (
        ("few", with_labels(content[:end], LABELS[:2]), r"few gives 3 scores, and names 2 classes"),
        ("bare", content[:end], r"bare has damaged TFLite metadata: \S"),
    ):
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(InputError, match=said) as error:
            Classifier(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1


def test_a_file_that_is_no_classifier_of_images_is_told(tmp_path):
    dense = tf.keras.Sequential([tf.keras.layers.Dense(2)])
    dense.build((1, 5))
    (tmp_path / "dense").write_bytes(tf.lite.TFLiteConverter.from_keras_model(dense).convert())
    with pytest.raises(InputError, match=r"dense has inputs and outputs of shapes \[\(1, 5\), \(1, 2\)\], and is no"):
        Classifier(tmp_path / "dense")


def test_damaged_metadata_is_read_or_refused(files, tmp_path):
    content = files["float32"].read_bytes()
    model = flatbuffer_utils.read_model(str(files["float32"]))
    (number,) = [each.buffer for each in model.metadata if each.name == metadata.METADATA.encode()]
    said = bytes(model.buffers[number].data)
    start, random = content.index(said), np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[start + random.integers(len(said))] = random.integers(256)
        (tmp_path / "model").write_bytes(damaged)
        try:
            metadata.described(tmp_path / "model")
        except InputError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
    assert 10 < refused < 100
