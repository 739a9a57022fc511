"""LiteRT.js, with the code of docs/browser.md, and MediaPipe in headless Chromium, against LiteRT here."""

from dataclasses import replace

import numpy as np
import pytest
from needed import missing
from PIL import Image
from test_tflite import SCHEMES, bit_of, confident, made, photos

from benchmarks import browser
from bitlite.litert import runtime
from bitlite.litert.metadata import METADATA
from bitlite.tflite import metadata
from bitlite.tflite.flatbuffer import compact
from bitlite.tflite.graph import Graph, Tensor, constant, to_file
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Integers, Uncalibrated

SIZE = (48, 32)
PHOTOS = photos(20, SIZE)
ENTRIES = {
    **SCHEMES,
    "winograd": Uncalibrated(scheme="float32", winograd=True),
    "softmax": Uncalibrated(scheme="float32", softmax=True),
    "int8_softmax": Integers(scheme="int8", softmax=True),
}
EXACT = ("float32", "float16", "winograd", "softmax")
# Where activations are rounded to int8, another order of additions takes one to the next step here and there, and
# random weights make much of it: the error of a score against what images change in it.
ROUNDED = {"dynamic": 0.1, "int4": 0.1, "int8_mixed": 0.25, "mixed": 0.25}
# Of exact ones the largest error of a score against the largest score. WebGL computes in float16.
EXACTLY = {"wasm": 1e-3, "webgpu": 1e-3, "webgl": 1e-2}


@pytest.fixture(scope="module", autouse=True)
def tools():
    try:
        browser.installed()
    except InputError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def bit():
    """A small one with what large ones have: a root of 7x7, a pool, projections of stride 2, 64 channels in 3x3."""
    return confident(bit_of(filters=64, units=(1, 1), groups=16, root=7, pool=True, size=SIZE, zeros=0))


@pytest.fixture(scope="module")
def files(bit, tmp_path_factory):
    directory = tmp_path_factory.mktemp("browser")
    for name, entry in ENTRIES.items():
        (directory / name).write_bytes(made(entry, bit))
    return {name: directory / name for name in ENTRIES}


@pytest.mark.parametrize(
    ("name", "accelerator", "by"),
    [
        *((name, "wasm", "LiteRT.js") for name in ENTRIES),
        *((name, "webgpu", "LiteRT.js") for name in (*EXACT, *ROUNDED)),
        *((name, "wasm", "MediaPipe") for name in ("float32", "int8", "softmax", "int8_softmax")),
        *((name, "webgl", "MediaPipe") for name in (*EXACT, "dynamic", "int8_mixed")),
    ],
)
def test_the_browser_answers_as_python_does(name, accelerator, by, files):
    expected = runtime.logits(files[name], PHOTOS)
    found = browser.answers(files[name], PHOTOS, accelerator, by).scores
    assert len(set(expected.argmax(axis=1))) > 2  # or the images would not matter
    if name in ROUNDED:
        assert np.sqrt(np.mean((found - expected) ** 2)) < ROUNDED[name] * expected.std(axis=0).mean()
    else:
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
        assert np.abs(found - expected).max() < EXACTLY[accelerator] * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "accelerator", "by"),
    [
        ("int8", "webgpu", "LiteRT.js"),
        ("int8", "webgl", "MediaPipe"),
        ("int4", "webgl", "MediaPipe"),
        ("mixed", "webgl", "MediaPipe"),
    ],
)
def test_what_is_nothing_for_the_gpu_is_refused(name, accelerator, by, files):
    with pytest.raises(InputError, match=rf"^{by} has no answer for .*/{name} by {accelerator}: \S"):
        browser.answers(files[name], PHOTOS[:1], accelerator, by)


# Small graphs that MediaPipe gets wrong on WebGL (docs/gpu-delegate.md), and the forms that it gets right.


def product(bit, tmp_path, multiplied):
    """The largest error on WebGL, against the largest output, of what `multiplied` gives for some arrays.

    It takes a graph, activations [1, 1, 4, 3], their means [1, 1, 4, 1], and a constant [1, 1, 4, 3].
    """
    random, graph, grouped = np.random.default_rng(0), Graph(Tensor("pixels", (1, *SIZE, 3))), (1, 1, 4, 3)
    pixels = graph.multiply("scaled", graph.input, constant("scale", 1 / 255))
    means = graph.mean("means", graph.convolve("convolved", pixels, random.normal(size=(1, 1, 3, 12))), [1, 2])
    whole = graph.reshape("whole", means, grouped)
    multiplied(graph, whole, graph.mean("small", whole, [3]), constant("constant", random.normal(size=grouped)))
    graph.reshape("outputs", graph.output, (1, 12))
    architecture = replace(bit.architecture, labels=tuple("abcdefghijkl"))
    said = metadata.metadata(architecture, ENTRIES["float32"], "float32")
    file = tmp_path / "model.tflite"
    file.write_bytes(metadata.with_labels(compact(to_file(graph), {METADATA: said}), architecture.labels))
    expected = runtime.logits(file, PHOTOS[:2])
    found = browser.answers(file, PHOTOS[:2], "webgl", "MediaPipe").scores
    return np.abs(found - expected).max() / np.abs(expected).max()


RIGHT = {
    "copied": lambda graph, _, small, gamma: graph.multiply(
        "product", graph.convolve("copied", small, np.ones((1, 1, 1, 3))), gamma
    ),
    "larger activation first": lambda graph, whole, small, _: graph.multiply("product", whole, small),
}
WRONG = {
    "constant first": lambda graph, _, small, gamma: graph.multiply("product", gamma, small),
    "constant last": lambda graph, _, small, gamma: graph.multiply("product", small, gamma),
    "larger activation last": lambda graph, whole, small, _: graph.multiply("product", small, whole),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_products_of_a_norm_are_right_on_webgl(name, bit, tmp_path):
    assert product(bit, tmp_path, RIGHT[name]) < 0.01


@pytest.mark.parametrize("name", WRONG)
def test_other_products_are_wrong_on_webgl_without_a_word(name, bit, tmp_path):
    assert product(bit, tmp_path, WRONG[name]) > 0.1, "mended: the workaround and its line in docs/ can go"


def test_the_documented_page_names_the_class_of_a_photo(files, tmp_path):
    (tmp_path / "model.tflite").write_bytes(files["int8"].read_bytes())
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(10)))
    Image.fromarray(PHOTOS[0]).save(tmp_path / "photo.png")
    best = runtime.logits(files["int8"], PHOTOS[:1]).argmax()
    with browser.opened(tmp_path, browser.documented("html")) as page:
        page.until("document.querySelector('input').onchange !== null")
        page.choose("input", tmp_path / "photo.png")
        assert page.until("document.querySelector('p').textContent") == f"class {best}"


def test_what_the_browser_can_not_do_is_told(tmp_path):
    (tmp_path / "model").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"^LiteRT.js has no answer for .*/model by wasm: \S"):
        browser.answers(tmp_path / "model", PHOTOS[:1], "wasm")
