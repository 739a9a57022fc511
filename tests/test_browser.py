"""LiteRT.js in headless Chromium, with the code of docs/browser.md, against LiteRT here."""

import numpy as np
import pytest
from needed import missing
from PIL import Image
from test_tflite import SCHEMES, bit_of, confident, photos

from benchmarks import browser
from bitlite.litert import runtime
from bitlite.tflite import conversion
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
ROUNDED = {"dynamic": 0.1, "int4": 0.1, "int8_mixed": 0.25}


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
        (directory / name).write_bytes(conversion.convert(bit, entry, photos(16, SIZE, seed=1)))
    return {name: directory / name for name in ENTRIES}


@pytest.mark.parametrize(
    ("name", "accelerator"),
    [*((name, "wasm") for name in ENTRIES), *((name, "webgpu") for name in (*EXACT, *ROUNDED))],
)
def test_the_browser_answers_as_python_does(name, accelerator, files):
    expected = runtime.logits(files[name], PHOTOS)
    found = browser.answers(files[name], PHOTOS, accelerator).scores
    assert len(set(expected.argmax(axis=1))) > 2  # or the images would not matter
    if name in ROUNDED:
        assert np.sqrt(np.mean((found - expected) ** 2)) < ROUNDED[name] * expected.std(axis=0).mean()
    else:
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_integers_are_nothing_for_the_gpu_and_it_says_so(files):
    with pytest.raises(InputError, match=r"^LiteRT.js has no answer for .*/int8 by webgpu: \S"):
        browser.answers(files["int8"], PHOTOS[:1], "webgpu")


def test_the_documented_page_names_the_class_of_a_photo(files, tmp_path):
    (tmp_path / "model.tflite").write_bytes(files["int8"].read_bytes())
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(10)))
    Image.fromarray(PHOTOS[0]).save(tmp_path / "photo.png")
    choose_a_file = """
    <script type="module">
      const chosen = new DataTransfer();
      chosen.items.add(new File([await (await fetch("photo.png")).blob()], "photo.png"));
      const [input, said] = ["input", "p"].map((name) => document.querySelector(name));
      input.files = chosen.files;
      for (; !said.textContent; await new Promise((again) => setTimeout(again, 100)))
        input.dispatchEvent(new Event("change"));
      answer(said.textContent);
    </script>"""
    best = runtime.logits(files["int8"], PHOTOS[:1]).argmax()
    assert browser.visit(tmp_path, browser.documented("html") + choose_a_file) == f"class {best}"


def test_what_the_browser_can_not_do_is_told(tmp_path):
    (tmp_path / "model").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"^LiteRT.js has no answer for .*/model by wasm: \S"):
        browser.answers(tmp_path / "model", PHOTOS[:1], "wasm")
