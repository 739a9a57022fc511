"""The model card's code for Android and for web pages, run. That for Python is run in test_compare."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from comparisons import comparison, variant
from needed import missing
from PIL import Image
from preparing import encoded
from test_compare import ORIGIN
from test_tflite import bit_of, confident, photos

from benchmarks import browser
from bitlite.report import release
from bitlite.tflite import conversion
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Integers, Uncalibrated
from ship.predict import Classifier

SIZE = (24, 16)
LABELS = ("tulip", "<b>Löwenzahn</b>", "red fox")
ENTRIES = {
    "float32": Uncalibrated(scheme="float32"),
    "int8": Integers(scheme="int8"),
    "softmax": Uncalibrated(scheme="float32", softmax=True),
    "int8_softmax": Integers(scheme="int8", softmax=True),
}
BACKGROUND = "#a06446"
KOTLIN, KOTLIN_FOLDER = "kotlin-compiler@2.4.20", Path(".kotlin")
# In place of Android and MediaPipe, which can't be had here.
STAND_INS = Path(__file__).with_name("android")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("card")
    bit = confident(bit_of(filters=8, units=(1,), groups=4, labels=3))
    bit = bit.with_weights(bit.weights, labels=LABELS)
    for name, entry in ENTRIES.items():
        (directory / name).write_bytes(conversion.convert(bit, entry, photos(8)))
    return {name: directory / name for name in ENTRIES}


def card(file: Path) -> str:
    recipe = {"dataset": {"background": BACKGROUND}}
    return release.card(comparison(variant("dense-float32")), ORIGIN, recipe, file, 16)


def code(file: Path, language: str) -> str:
    """What the card of a file has in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", card(file), re.DOTALL | re.MULTILINE)
    return found


def laid(pixels: np.ndarray) -> np.ndarray:
    """RGBA on BACKGROUND."""
    opaque = pixels[..., 3:] / 255
    return pixels[..., :3] * opaque + np.array([0xA0, 0x64, 0x46]) * (1 - opaque)


def transparent(size) -> np.ndarray:
    """An RGBA image of this height and width."""
    alpha = np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(*size, 1)
    return np.concatenate([photos(1, size, seed=4)[0], alpha], axis=-1)


# Kotlin


@pytest.fixture(scope="module")
def program(files, tmp_path_factory):
    """The command that runs the card's code for files that give logits and for those that give probabilities."""
    for tool, package in {"java": "default-jre-headless", "npm": "npm"}.items():
        if not shutil.which(tool):
            missing(f"{tool} is missing: apt-get install {package}")
    compiler = KOTLIN_FOLDER / "node_modules/kotlin-compiler"
    if not compiler.exists():
        npm = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", KOTLIN_FOLDER, KOTLIN]
        done = subprocess.run(npm, capture_output=True, text=True)
        if done.returncode:
            missing(f"npm could not fetch {KOTLIN}: {done.stderr.strip()}")
    directory = tmp_path_factory.mktemp("kotlin")
    for package, file in {"logits": files["float32"], "probabilities": files["softmax"]}.items():
        (directory / f"{package}.kt").write_text(f"package {package}\n\n{code(file, 'kotlin')}")
    sources = [*STAND_INS.glob("*.kt"), *directory.glob("*.kt")]
    done = subprocess.run(
        ["bash", compiler / "bin/kotlinc", "-Werror", "-d", directory / "classes", *sources],
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    library = (compiler / "lib/kotlin-stdlib.jar").absolute()
    return ["java", "-Djava.awt.headless=true", "-cp", f"{directory / 'classes'}:{library}", "MainKt"]


def test_on_android_the_classes_have_their_probabilities(program, tmp_path):
    Image.fromarray(photos(1, (60, 50))[0]).save(tmp_path / "photo.png")
    (tmp_path / "model.tflite").touch()
    for gives, scores, expected in (
        ("logits", [-1.0, 2.0, 0.5], np.exp([2.0, 0.5, -1.0]) / np.exp([2.0, 0.5, -1.0]).sum()),
        ("probabilities", [0.1, 0.7, 0.2], [0.7, 0.2, 0.1]),
    ):
        rows = zip(scores, LABELS, strict=True)
        (tmp_path / "scores.txt").write_text("".join(f"{score} {label}\n" for score, label in rows))
        done = subprocess.run([*program, gives, "photo.png"], cwd=tmp_path, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        printed = [line.split(" ", maxsplit=1) for line in done.stdout.splitlines()]
        assert [label for _, label in printed] == [LABELS[1], LABELS[2], LABELS[0]]
        assert [float(share) for share, _ in printed] == pytest.approx(expected, abs=1e-5)


def test_on_android_a_model_gets_its_size_with_the_background(program, tmp_path):
    pixels = transparent(SIZE)
    for name in ("model.tflite", "scores.txt"):
        (tmp_path / name).write_text("1 tulip\n")
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(pixels).resize((50, 90)).save(tmp_path / "large.png")
    for name in ("photo.png", "large.png"):
        subprocess.run([*program, "logits", name], cwd=tmp_path, capture_output=True, check=True)
        seen = np.asarray(Image.open(tmp_path / "seen.png").convert("RGBA"), float)
        assert seen.shape == (*SIZE, 4) and seen[..., 3].min() == 255
        if name == "photo.png":
            assert np.abs(seen[..., :3] - laid(pixels)).max() < 3


# JavaScript


@pytest.fixture(scope="module")
def chromium():
    try:
        browser.installed()
    except InputError as error:
        missing(str(error))


def said(file: Path, photo: bytes, site: Path) -> dict[str, float]:
    """The probabilities by class that the card's page shows for an image file."""
    (site / "photo").write_bytes(photo)
    (site / "model.tflite").write_bytes(file.read_bytes())
    with browser.opened(site, code(file, "html")) as page:
        page.until("document.querySelector('input').onchange !== null")
        page.choose("input", site / "photo")
        shown = page.until("document.querySelector('pre').textContent")
    rows = [line.split("%  ", maxsplit=1) for line in shown.splitlines()]
    assert [float(share) for share, _ in rows] == sorted((float(share) for share, _ in rows), reverse=True)
    return {label: float(share) / 100 for share, label in rows}


@pytest.mark.parametrize("name", ENTRIES)
def test_in_a_web_page_the_classes_have_the_probabilities_that_python_finds(name, files, chromium, tmp_path):
    photo = encoded(Image.fromarray(transparent(SIZE)), "PNG")
    expected = dict(Classifier(files[name], BACKGROUND).predictions(photo))
    assert said(files[name], photo, tmp_path) == pytest.approx(expected, abs=0.05 if "int8" in name else 0.01)
    assert max(expected.values()) - min(expected.values()) > 0.2


def test_in_a_web_page_a_large_photo_is_stood_upright_and_shrunk(files, chromium, tmp_path):
    image = Image.fromarray(photos(1, (320, 480), seed=8)[0])
    exif = image.getexif()
    exif[0x0112] = 6
    photo = encoded(image, "JPEG", quality=95, exif=exif)
    expected = dict(Classifier(files["float32"]).predictions(photo))
    lying = dict(Classifier(files["float32"]).predictions(encoded(image, "JPEG", quality=95)))
    found = said(files["float32"], photo, tmp_path)
    assert found == pytest.approx(expected, abs=0.05)
    assert max(abs(lying[label] - expected[label]) for label in LABELS) > 0.1


def test_the_card_names_what_shrinks_as_python_does(files):
    # That it does so is tested in test_demo, and that the page in docs runs in test_browser.
    script, document = re.findall(r"`((?:ship|docs)/\S+)`", card(files["float32"]))
    assert "export function resized(" in Path(script).read_text()
    assert "./classify.js" in browser.documented("html") and Path(document) == browser.DOCUMENT
