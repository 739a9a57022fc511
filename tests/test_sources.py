import hashlib
import io
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from preparing import files, noise, prepared, refusal, stored, write_folder

from bitlite.images import dataset, decoding

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
TFDS_DIR, FLOWERS = SHARED / "tfds", SHARED / "flowers"
Transpose = Image.Transpose


# Embedded digits


@pytest.fixture(scope="module")
def mnist5k(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("mnist5k") / "dataset", "mnist5k")


@pytest.fixture(scope="module")
def digits(mnist5k):
    read = {split: dataset.read(split, (28, 28), mnist5k) for split in dataset.SPLITS}
    return {split: (images[:], labels) for split, (images, labels) in read.items()}


def test_mnist5k_counts(mnist5k, digits):
    counts = {split: np.bincount(labels).tolist() for split, (_, labels) in digits.items()}
    assert counts == {"train": [350] * 10, "validation": [75] * 10, "test": [75] * 10}
    assert {split: dataset.count(split, mnist5k) for split in dataset.SPLITS} == {
        "train": 3500, "validation": 750, "test": 750,
    }  # fmt: skip
    assert dataset.labels(mnist5k) == tuple("0123456789")
    assert dataset.median_area(mnist5k) == 28 * 28


def test_mnist5k_has_no_image_twice(digits):
    splits = {
        split: {hashlib.sha256(image.tobytes()).digest() for image in images} for split, (images, _) in digits.items()
    }
    assert len(set.union(*splits.values())) == sum(map(len, splits.values())) == 5000


def test_mnist5k_shows_what_its_labels_say(digits):
    """The class whose mean image is nearest is right for four digits of five; of ten, were labels mixed up, one."""
    train, labels = digits["train"]
    means = np.stack([train[labels == digit].mean(axis=0) for digit in range(10)])
    test, actual = digits["test"]
    distances = ((test[:, None] - means[None]) ** 2).sum(axis=(2, 3, 4))
    assert np.mean(distances.argmin(axis=1) == actual) > 0.75


def test_read_gives_what_tfds_reads(mnist5k, digits):
    images, labels = digits["test"]
    read = list(tfds.as_numpy(tfds.builder_from_directory(mnist5k).as_dataset(split="test")))
    np.testing.assert_array_equal(images, [example["image"] for example in read])
    np.testing.assert_array_equal(labels, [example["label"] for example in read])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_reading_and_the_light_stages_import_no_tensorflow(mnist5k):
    code = (
        "import sys; from pathlib import Path; from importlib import import_module\n"
        "loaded = lambda: 'tensorflow' in sys.modules\n"
        "from bitlite.images import dataset\n"
        f"images, labels = dataset.read('test', (8, 8), Path({str(mnist5k)!r}))\n"
        "print('read', images.shape, loaded())\n"
        "for name in ('benchmark', 'compare', 'download', 'evaluate', 'params', 'prune'):\n"
        "    import_module(f'stages.{name}'); print(name, loaded())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "read (750, 8, 8, 3) False", "benchmark False", "compare False", "download False", "evaluate False",
        "params False", "prune False",
    ]  # fmt: skip


# Folders


def upright(height=40, width=60, blue=90) -> Image.Image:
    """Red grows downwards, green to the right: no turn or mirroring leaves it as it is."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * y / (height - 1), 255 * x / (width - 1), np.full((height, width), blue)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def with_orientation(image: Image.Image, orientation: int, path: Path) -> None:
    """Save `image` as a camera that was held otherwise does: turned, with the tag that tells how to turn it back."""
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.transpose(turns[orientation]).save(path, exif=exif, quality=95)


def original(kind: str) -> Image.Image:
    """What the one image of a class shows, in the mode that its file has; another blue for each class."""
    image = upright(*((50, 50) if kind.startswith("square") else (40, 60)), blue=10 * KINDS.index(kind))
    if kind in ("palette", "frames"):
        return image.quantize(256)
    return image.convert({"cmyk": "CMYK", "grey": "L", "grey16": "L"}.get(kind, "RGB"))


# Sorted by name, as the classes of a folder are.
KINDS = [
    "alpha", "bmp", "cmyk", "frames", "grey", "grey16", "jpeg",
    *(f"orientation{number}" for number in range(2, 9)),
    "palette", "png", "square3", "square6", "webp",
]  # fmt: skip


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Prepared from one folder for each kind of image, holding just one."""
    folder = tmp_path_factory.mktemp("kinds")

    def save(kind: str, name: str, image: Image.Image | None = None, **settings) -> None:
        (folder / kind / name).parent.mkdir(parents=True)
        (image or original(kind)).save(folder / kind / name, **settings)

    transparent = original("alpha").convert("RGBA")
    transparent.putalpha(200)
    save("alpha", "a.png", transparent)
    save("bmp", "a.bmp")
    save("cmyk", "a.jpg", quality=95)
    save("frames", "a.gif", save_all=True, append_images=[noise(0, 40, 60)])
    save("grey", "a.png")
    save("grey16", "a.png", Image.fromarray(np.asarray(original("grey16")).astype(np.uint16) * 257))
    save("jpeg", "below/a.JPEG", quality=95)
    save("palette", "a.gif")
    save("png", "a.png")
    save("webp", "a.webp", lossless=True)
    for kind in KINDS:
        if kind.startswith(("orientation", "square")):
            (folder / kind).mkdir()
            with_orientation(original(kind), int(kind[-1]), folder / kind / "a.jpg")
    (folder / ".hidden").mkdir()
    for label in range(2):  # so that no split is empty
        (folder / f"z{label}").mkdir()
        for index in range(10):
            noise(100 * label + index).save(folder / f"z{label}" / f"{index}.png")
    directory = prepared(tmp_path_factory.mktemp("prepared") / "dataset", folder)
    assert dataset.labels(directory) == (*KINDS, "z0", "z1")
    return directory


@pytest.fixture(scope="module")
def by_kind(kinds):
    return {dataset.labels(kinds)[label]: encoded for encoded, label in stored(kinds, "train")}


@pytest.mark.parametrize("kind", KINDS)
def test_folder_s_images_come_upright_in_rgb(by_kind, kind):
    image, expected = decoding.upright_rgb(by_kind[kind]), original(kind).convert("RGB")
    if kind == "alpha":  # 200 of 255 opaque, on white
        expected = Image.fromarray(np.rint((200 * np.asarray(expected, float) + 55 * 255) / 255).astype(np.uint8))
    assert (image.mode, image.size) == ("RGB", expected.size)
    assert Image.open(io.BytesIO(by_kind[kind])).format in ("JPEG", "PNG")
    difference = np.abs(np.asarray(image, float) - np.asarray(expected, float))
    assert difference.max() <= (8 if kind in ("jpeg", "cmyk") or kind.startswith(("orientation", "square")) else 0)


def test_jpegs_in_any_mode_and_turn_keep_their_bytes(by_kind, tmp_path):
    file = tmp_path / "a.jpg"
    for kind in ("jpeg", "cmyk"):
        original(kind).save(file, quality=95)
        assert by_kind[kind] == file.read_bytes()
    for kind in ("orientation5", "orientation6", "square3"):
        with_orientation(original(kind), int(kind[-1]), file)
        assert by_kind[kind] == file.read_bytes()


def test_tfds_decodes_what_is_stored(kinds):
    """It does not turn them."""
    turned = [dataset.labels(kinds).index(kind) for kind in KINDS if kind.startswith(("orientation", "square"))]
    stored_images = [(encoded, label) for encoded, label in stored(kinds, "train") if label not in turned]
    read = tfds.as_numpy(tfds.builder_from_directory(kinds).as_dataset(split="train"))
    images = [example["image"] for example in read if example["label"] not in turned]
    assert len(images) == len(stored_images) > len(KINDS) - 9
    for image, (encoded, _) in zip(images, stored_images, strict=True):
        expected = np.asarray(decoding.upright_rgb(encoded), float)
        assert np.abs(image - expected).max() <= 4  # TensorFlow's libjpeg converts grey and CMYK in its own way


def test_read_resizes_height_and_width_separately(kinds):
    images, labels = dataset.read("train", (20, 30), kinds)
    assert images.shape[1:] == (20, 30, 3)
    (image,) = images[np.flatnonzero(labels == KINDS.index("png"))]
    expected = upright(20, 30, blue=10 * KINDS.index("png"))
    assert np.abs(image.astype(float) - np.asarray(expected, float)).max() < 8


def test_same_folder_gives_same_bytes(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=8, bee=9)
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    one = files(prepared(tmp_path / "one", folder, validation=0.3, test=0.3))
    other = files(prepared(tmp_path / "two" / "other", copy, validation=0.3, test=0.3))
    assert one == other
    assert len(one) == 7


def test_preparing_replaces_and_leaves_no_litter(tmp_path):
    first = write_folder(tmp_path / "in" / "first", ant=6, bee=6)
    second = write_folder(tmp_path / "in" / "second", ant=6, bee=6, cow=6)
    for folder in (first, second):
        prepared(tmp_path / "out" / "dataset", folder, validation=0.3, test=0.3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset"]
    assert dataset.labels(tmp_path / "out" / "dataset") == ("ant", "bee", "cow")


def test_copies_are_told_and_kept_within_a_split(tmp_path, capsys):
    folder = write_folder(tmp_path / "folder", ant=12, bee=12)
    for path in list((folder / "ant").iterdir()):
        shutil.copy(path, path.with_name(f"{path.stem}b.png"))
    directory = prepared(tmp_path / "out", folder, validation=0.3, test=0.3)
    listed = ", ".join(map(str, sorted((folder / "ant").glob("*b.png"))[:10]))
    assert f"{folder}: 36 images, 12 copies of others: {listed}, and 2 more\n" in capsys.readouterr().err
    counts = {split: Counter(encoded for encoded, _ in stored(directory, split)) for split in dataset.SPLITS}
    assert sum(map(len, counts.values())) == 24
    assert sum(counts.values(), Counter()).total() == 36


def test_files_are_decoded_once_or_twice_if_they_must_be_encoded(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "folder", ant=10)
    (folder / "bee").mkdir()
    for index in range(10):
        noise(5000 + index).save(folder / "bee" / f"{index}.bmp")
    opened = Counter()

    def counted(file, *args, open=Image.open, **settings):
        image = open(file, *args, **settings)
        opened[image.format] += 1
        return image

    monkeypatch.setattr(Image, "open", counted)
    prepared(tmp_path / "out", folder, validation=0.3, test=0.3)
    assert opened == {"PNG": 10, "BMP": 20}


def test_memory_does_not_grow_with_the_images(tmp_path):
    folder, pixels = tmp_path / "folder", np.random.default_rng(0).integers(256, size=(1000, 1000, 3), dtype=np.uint8)
    for label, index in np.ndindex(2, 25):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        pixels[0, 0] = label, index, 0
        Image.fromarray(pixels).save(folder / str(label) / f"{index}.png", compress_level=0)
    tracemalloc.start()
    prepared(tmp_path / "out", folder, validation=0.05, test=0.05)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(path.stat().st_size for path in folder.rglob("*.png")) > 150e6
    assert peak < 100e6
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".tmp"]


def test_features_of_an_example_are_stored_in_one_order(mnist5k):
    (path,) = mnist5k.glob("*validation*")
    content = path.read_bytes()
    assert content.index(b"image") < content.index(b"label")


@pytest.mark.parametrize("name", ["mnist5", "no/such/folder"])
def test_unknown_name_is_refused(tmp_path, name):
    message = refusal(tmp_path / "out", name)
    assert message.startswith(f"dataset.name is {name!r}: neither mnist5k, nor a folder, nor a TFDS set")
