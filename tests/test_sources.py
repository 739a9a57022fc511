import hashlib
import io
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bitlite.images import dataset, decoding, records
from bitlite.images.records import Example
from bitlite.sources import splits as splitting
from bitlite.sources.prepare import prepare
from bitlite.sources.source import Entry
from bitlite.workflow.errors import InputError
from bitlite.workflow.params import Dataset

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
TFDS_DIR, FLOWERS = SHARED / "tfds", SHARED / "flowers"
Transpose = Image.Transpose


def prepared(directory: Path, name, **settings) -> Path:
    prepare(Dataset(name=str(name), **settings), directory)
    return directory


def stored(directory: Path, split: str) -> list[Example]:
    return list(dataset.examples(split, directory))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def noise(seed: int, height=9, width=12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    return encoded_as("PNG", image)


def encoded_as(kind: str, image: Image.Image, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def huge_gif() -> bytes:
    """A GIF that claims to be of 60,000 x 60,000 pixels."""
    content = encoded_as("GIF", noise(0))
    return content[:6] + struct.pack("<HH", 60_000, 60_000) + content[10:]


def write_folder(folder: Path, **counts: int) -> Path:
    """Folders of `counts` images of noise, none like another."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise(1000 * label + index).save(folder / name / f"{index}.png")
    return folder


# Splits


def entries(*counts: int) -> list[Entry]:
    return [
        Entry(Path(f"{label} {index}"), label, hashlib.sha256(f"{label} {index}".encode()).digest())
        for label, count in enumerate(counts)
        for index in range(count)
    ]


def test_splits_are_stratified():
    found = entries(100, 37, 8, 1)
    splits = splitting.assign(found, validation=0.2, test=0.1)
    for label, count in enumerate((100, 37, 8, 1)):
        sizes = Counter(split for split, entry in zip(splits, found, strict=True) if entry.label == label)
        assert abs(sizes["test"] - 0.1 * count) <= 1
        assert abs(sizes["validation"] - 0.2 * count) <= 1
        assert sizes["train"] >= 0.7 * count - 1
    assert set(splits) == {"train", "validation", "test"}


def test_splits_depend_on_neither_order_nor_other_classes():
    found = entries(50, 50)
    expected = dict(zip(found, splitting.assign(found, validation=0.3, test=0.3), strict=True))
    shuffled = random.Random(0).sample(found, len(found))
    again = splitting.assign(shuffled, validation=0.3, test=0.3)
    assert dict(zip(shuffled, again, strict=True)) == expected
    alone = splitting.assign(found[:50], validation=0.3, test=0.3)
    assert alone == [expected[entry] for entry in found[:50]]


def test_copies_of_an_image_share_a_split():
    found = entries(40, 40)
    copies = [entry._replace(where=Path(f"{entry.where} {copy}")) for entry in found[:40] for copy in range(2)]
    mislabelled = [entry._replace(where=Path(f"{entry.where} elsewhere"), label=1) for entry in found[:40]]
    everything = found + copies + mislabelled
    splits_of = {}
    for entry, split in zip(everything, splitting.assign(everything, validation=0.3, test=0.3), strict=True):
        splits_of.setdefault(entry.digest, set()).add(split)
    assert {len(splits) for splits in splits_of.values()} == {1}
    assert set.union(*splits_of.values()) == {"train", "validation", "test"}


def test_splits_are_the_same_on_every_machine():
    splits = splitting.assign(entries(10), validation=0.3, test=0.2)
    # By SHA-256 of "0 0" to "0 9": 6, 4, 2, 1, 7, 5, 0, 8, 9, 3.
    assert [index for index, split in enumerate(splits) if split == "test"] == [4, 6]
    assert [index for index, split in enumerate(splits) if split == "validation"] == [1, 2, 7]


def test_more_validation_leaves_the_test_images():
    found = entries(100)
    little, much = (splitting.assign(found, validation=share, test=0.2) for share in (0.1, 0.5))
    assert [split == "test" for split in little] == [split == "test" for split in much]
    assert set(splitting.assign(found, validation=0.2, test=0.0)) == {"train", "validation"}


# Draws: few-shot training, and a quick look


def by_class(examples: list[Example]) -> dict[int, list[bytes]]:
    """The small images of each class, highest hash of their pixels first."""
    found = {}
    for encoded, label in sorted(examples, key=lambda example: pixel_hash(example[0]), reverse=True):
        found.setdefault(label, []).append(encoded)
    return found


def pixel_hash(encoded: bytes) -> bytes:
    """SHA-256 of three little-endian integers, 1, width and height, and the RGB pixels: the same on every system."""
    image = Image.open(io.BytesIO(encoded))
    return hashlib.sha256(struct.pack("<3I", 1, *image.size) + np.asarray(image.convert("RGB")).tobytes()).digest()


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A folder of 40, 20 and 10 images, and what it holds when all of it is prepared."""
    directory = tmp_path_factory.mktemp("uneven")
    folder = write_folder(directory / "folder", ant=40, bee=20, cow=10)
    everything = prepared(directory / "dataset", folder, validation=0.2, test=0.2)
    return folder, {split: stored(everything, split) for split in dataset.SPLITS}


def test_examples_per_class_draws_training_images_by_their_hash(uneven, tmp_path):
    folder, everything = uneven
    few = prepared(tmp_path / "few", folder, validation=0.2, test=0.2, examples_per_class=3)
    expected = {label: images[:3] for label, images in by_class(everything["train"]).items()}
    assert by_class(stored(few, "train")) == expected
    for split in ("validation", "test"):
        assert sorted(stored(few, split)) == sorted(everything[split])


def test_examples_per_class_stay_when_files_are_renamed_and_shares_change(uneven, tmp_path):
    folder, _ = uneven
    renamed = shutil.copytree(folder, tmp_path / "renamed")
    for path in renamed.rglob("*.png"):
        path.rename(path.with_name(f"{(int(path.stem) * 7) % 41:02}-again.png"))
    one, other = tmp_path / "one", tmp_path / "other"
    prepared(one, folder, validation=0.2, test=0.2, examples_per_class=3)
    prepared(other, renamed, validation=0.1, test=0.3, examples_per_class=3)
    assert by_class(stored(one, "train")) == by_class(stored(other, "train"))


def test_too_few_examples_of_a_class_are_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=10, bee=6)
    for copy in range(9):
        shutil.copy(folder / "bee" / "0.png", folder / "bee" / f"copy{copy}.png")
    settings = {"validation": 0.2, "test": 0.2}
    prepared(tmp_path / "enough", folder, **settings, examples_per_class=4)
    assert refusal(tmp_path / "out", folder, **settings, examples_per_class=5) == (
        "dataset.examples_per_class is 5, but class 'bee' has 4 training images"
    )


@pytest.mark.parametrize(
    ("most", "train"), [(1, [1, 0, 0]), (7, [4, 2, 1]), (21, [12, 6, 3]), (23, [13, 7, 3]), (1000, [24, 12, 6])]
)
def test_max_examples_keeps_the_shares_of_classes_in_each_split(uneven, tmp_path, most, train):
    folder, everything = uneven
    some = prepared(tmp_path / "some", folder, validation=0.2, test=0.2, max_examples=most)
    for split in dataset.SPLITS:
        whole, drawn = by_class(everything[split]), by_class(stored(some, split))
        assert sum(map(len, drawn.values())) == min(most, len(everything[split]))
        for label, images in drawn.items():
            assert images == whole[label][: len(images)]
        if split == "train":
            assert [len(drawn.get(label, ())) for label in range(3)] == train


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
    assert len(one) == 6


def test_preparing_replaces_and_leaves_no_litter(tmp_path):
    first = write_folder(tmp_path / "in" / "first", ant=6, bee=6)
    second = write_folder(tmp_path / "in" / "second", ant=6, bee=6, cow=6)
    for folder in (first, second):
        prepared(tmp_path / "out" / "dataset", folder, validation=0.3, test=0.3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset"]
    assert dataset.labels(tmp_path / "out" / "dataset") == ("ant", "bee", "cow")


def refusal(directory: Path, name, **settings) -> str:
    with pytest.raises(InputError) as error:
        prepared(directory, name, **settings)
    assert not directory.exists()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_one_class_is_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=3)
    for on_error in ("fail", "skip"):
        assert refusal(tmp_path / "out", folder, on_error=on_error) == (
            f"dataset.name is {str(folder)!r}: two or more class folders with images are needed, found: ant"
        )


def test_folder_without_folders_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    noise(0).save(tmp_path / "folder" / "a.png")
    assert refusal(tmp_path / "out", tmp_path / "folder").endswith("found: none")


def test_class_names_that_differ_only_in_case_are_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", Cats=3, bee=3, cats=3)
    for on_error in ("fail", "skip"):
        message = refusal(tmp_path / "out", folder, on_error=on_error)
        assert message == f"dataset.name is {str(folder)!r}: class names that differ only in case (2): Cats, cats"


@pytest.mark.parametrize(
    "content",
    [b"no image", b"", png(noise(0))[:200], png(noise(0)).replace(b"IDAT", b"IDAX"), huge_gif()],
    ids=["text", "empty", "truncated", "without pixels", "too large"],
)
def test_unreadable_file_is_named_before_anything_is_written(tmp_path, content):
    folder = write_folder(tmp_path / "folder", ant=3, bee=3)
    (folder / "bee" / "bad.png").write_bytes(content)
    assert f"can't be read as images (1): {folder / 'bee' / 'bad.png'};" in refusal(tmp_path / "out", folder)


def test_what_file_managers_leave_behind_is_no_image(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=8, bee=8)
    expected = files(prepared(tmp_path / "without", folder, validation=0.3, test=0.3))
    (folder / "ant" / ".ipynb_checkpoints").mkdir()
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", ".ipynb_checkpoints/0.png"):
        (folder / "ant" / name).write_text("no image")
    assert files(prepared(tmp_path / "with", folder, validation=0.3, test=0.3)) == expected


@pytest.fixture
def faulty(tmp_path):
    """A folder with one problem of each kind that can be left out."""
    folder = write_folder(tmp_path / "faulty", ant=12, ape=0, bee=12, dog=1)
    (folder / "ant" / "notes.txt").write_text("no image")
    for wrong in ("bee/00.png", "bee/again.png", "dog/0.png"):
        shutil.copy(folder / "ant" / "0.png", folder / wrong)
    return folder


def test_all_problems_of_a_folder_are_told_at_once(faulty, tmp_path):
    (faulty / "Bee").mkdir()
    torn = [faulty / path for path in ("ant/0.png", "bee/00.png", "bee/again.png", "dog/0.png")]
    assert refusal(tmp_path / "out", faulty) == (
        f"dataset.name is {str(faulty)!r}: "
        f"files that can't be read as images (1): {faulty / 'ant' / 'notes.txt'}; "
        f"files whose image stands under another class too (4): {', '.join(map(str, torn))}; "
        f"class folders without a usable image (3): {faulty / 'Bee'}, {faulty / 'ape'}, {faulty / 'dog'}; "
        "class names that differ only in case (2): Bee, bee"
    )


def test_ten_paths_of_a_problem_are_listed_and_the_others_counted(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=3, bee=3)
    for index in range(13):
        (folder / "ant" / f"bad{index:02}.png").write_bytes(b"")
    listed = ", ".join(str(folder / "ant" / f"bad{index:02}.png") for index in range(10))
    assert f"(13): {listed}, and 3 more; mend this, or leave it out by dataset.on_error: skip" in refusal(
        tmp_path / "out", folder
    )


def test_problems_are_left_out_and_printed_when_that_is_asked_for(faulty, tmp_path, capsys):
    directory = prepared(tmp_path / "out", faulty, on_error="skip", validation=0.3, test=0.3)
    assert dataset.labels(directory) == ("ant", "bee")
    found = [example for split in dataset.SPLITS for example in stored(directory, split)]
    left = [(faulty / "ant" / f"{index}.png", 0) for index in range(1, 12)]
    left += [(faulty / "bee" / f"{index}.png", 1) for index in range(12)]
    assert sorted(found) == sorted((path.read_bytes(), label) for path, label in left)
    told = capsys.readouterr().err.splitlines()
    assert f"{faulty}: left out files that can't be read as images (1): {faulty / 'ant' / 'notes.txt'}" in told
    assert sum(line.startswith(f"{faulty}: left out") for line in told) == 3


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


def test_too_few_images_for_the_splits_are_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=2, bee=2)
    assert str(folder) in refusal(tmp_path / "out", folder)


@pytest.mark.parametrize("name", ["mnist5", "no/such/folder"])
def test_unknown_name_is_refused(tmp_path, name):
    message = refusal(tmp_path / "out", name)
    assert message.startswith(f"dataset.name is {name!r}: neither mnist5k, nor a folder, nor a TFDS set")


# TFDS sets


def write_tfds(data_dir: Path, name: str, splits: dict[str, list], image="image", label="label", **others) -> list[str]:
    """Prepare a handful of images in the form of a set that TFDS knows. Returns the names of its classes."""
    info = tfds.builder(name, data_dir=data_dir).info
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=info.version,
        features=info.features,
        split_datasets={
            split: [(key, {image: io.BytesIO(encoded), label: of, **others}) for key, (encoded, of) in enumerate(found)]
            for split, found in splits.items()
        },
        data_dir=data_dir,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    return info.features[label].names


def cifar_like(seeds) -> list[Example]:
    return [(png(noise(seed, 32, 32)), seed % 10) for seed in seeds]


def test_tfds_set_keeps_its_own_splits(tmp_path):
    own = {"train": cifar_like(range(100, 200)), "test": cifar_like(range(20))}
    names = write_tfds(tmp_path / "tfds", "cifar10", own, id="")
    directory = prepared(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"), validation=0.2, test=0.5)
    assert dataset.labels(directory) == tuple(names)
    # TFDS writes examples in an order of its own.
    assert sorted(stored(directory, "test")) == sorted(own["test"])
    drawn = {split: stored(directory, split) for split in ("train", "validation")}
    assert sorted(drawn["train"] + drawn["validation"]) == sorted(own["train"])
    assert Counter(label for _, label in drawn["validation"]) == dict.fromkeys(range(10), 2)


def test_training_images_that_the_own_test_split_has_are_left_out_and_told(tmp_path, capsys):
    own = {"train": cifar_like(range(15, 115)), "test": cifar_like(range(20))}
    write_tfds(tmp_path / "tfds", "cifar10", own, id="")
    directory = prepared(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"), validation=0.2)
    assert sorted(stored(directory, "test")) == sorted(own["test"])
    drawn = stored(directory, "train") + stored(directory, "validation")
    assert sorted(drawn) == sorted(cifar_like(range(20, 115)))
    told = capsys.readouterr().err
    assert "cifar10, train: 100 images, 0 copies of others" in told
    assert "cifar10, train: left out 5 that a later split has too: " in told
    assert "cifar10, test: left out" not in told


def test_test_split_without_labels_is_drawn_from_training_instead(tmp_path):
    own = {"train": cifar_like(range(100, 200)), "test": [(encoded, -1) for encoded, _ in cifar_like(range(20))]}
    write_tfds(tmp_path / "tfds", "cifar10", own, id="")
    directory = prepared(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"), validation=0.2, test=0.3)
    assert {split: dataset.count(split, directory) for split in dataset.SPLITS} == {
        "train": 50, "validation": 20, "test": 30,
    }  # fmt: skip


def test_tfds_set_without_labelled_training_images_is_refused(tmp_path):
    write_tfds(tmp_path / "tfds", "cifar10", {"test": cifar_like(range(20))}, id="")
    message = refusal(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"))
    assert message == "dataset.name is 'cifar10', which has no labelled split train; it has: test"


def test_tfds_set_s_supervised_keys_say_which_features_hold_image_and_class(tmp_path):
    grey = [png(noise(seed, 96, 96).convert("L")) for seed in range(40)]
    own = {
        "train": [(encoded, index % 5) for index, encoded in enumerate(grey[:30])],
        "test": [(encoded, index % 5) for index, encoded in enumerate(grey[30:39])],
    }
    others = dict.fromkeys(("instance", "label_elevation", "label_azimuth", "label_lighting"), 0)
    others["image2"] = np.zeros((96, 96, 1), np.uint8)
    names = write_tfds(tmp_path / "tfds", "smallnorb", own, label="label_category", **others)
    directory = prepared(tmp_path / "out", "smallnorb", data_dir=str(tmp_path / "tfds"), validation=0.2)
    assert dataset.labels(directory) == tuple(names)
    assert sorted(stored(directory, "test")) == sorted(own["test"])
    assert sorted(stored(directory, "train") + stored(directory, "validation")) == sorted(own["train"])


def test_tfds_set_without_one_class_for_each_image_is_refused(tmp_path):
    message = refusal(tmp_path / "out", "celeb_a", data_dir=str(tmp_path / "tfds"))
    assert "no image with one class label; its features: image (Image), landmarks" in message


@pytest.mark.parametrize("name", ["cifar10:9.9.9", "cifar10/nonsense"])
def test_unknown_version_or_configuration_of_a_tfds_set_is_refused(tmp_path, name):
    message = refusal(tmp_path / "out", name, data_dir=str(tmp_path / "tfds"))
    assert message.startswith(f"dataset.name is {name!r}, which TFDS can't load: ")


def test_tfds_set_that_can_t_be_prepared_is_told_in_one_line(tmp_path):
    """ImageNet's files must be put in place by hand."""
    message = refusal(tmp_path / "out", "imagenet2012", data_dir=str(tmp_path / "tfds"))
    assert message.startswith("dataset.name is 'imagenet2012', which TFDS can't prepare: ")
    assert "ILSVRC2012_img_train.tar" in message and message.endswith("as dataset.data_dir")


@pytest.mark.parametrize("answer", ["refused", "none"])
def test_without_a_network_an_unprepared_set_is_refused_soon(tmp_path, monkeypatch, answer):
    """Through a proxy, since that is asked in place of any host: one that is not there, and one that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = "http://{}:{}".format(*proxy.getsockname())
        if answer == "refused":
            proxy.close()
        for variable in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", address)
        start = time.monotonic()
        message = refusal(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"))
    assert time.monotonic() - start < 15
    assert message.startswith("dataset.name is 'cifar10', which is not prepared in ")
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz can't be reached" in message
    assert message.endswith("give the TFDS directory that holds a prepared copy as dataset.data_dir")


@pytest.mark.skipif(not FLOWERS.exists(), reason=f"needs the photos of flowers in {FLOWERS}")
def test_flowers(tmp_path):
    directory = prepared(tmp_path / "out", FLOWERS)
    assert dataset.labels(directory) == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    stored_images = [encoded for split in dataset.SPLITS for encoded, _ in stored(directory, split)]
    assert sorted(stored_images) == sorted(path.read_bytes() for path in FLOWERS.rglob("*.jpg"))


@pytest.mark.skipif(not (TFDS_DIR / "cifar10").exists(), reason=f"needs CIFAR-10, prepared by TFDS in {TFDS_DIR}")
def test_cifar10(tmp_path):
    directory = prepared(tmp_path / "out", "cifar10", data_dir=str(TFDS_DIR), validation=0.04, test=0.5)
    counts = {split: dataset.count(split, directory) for split in dataset.SPLITS}
    assert counts == {"train": 48_000, "validation": 2000, "test": 10_000}
    own = tfds.builder("cifar10", data_dir=TFDS_DIR).info
    assert sorted(stored(directory, "test")) == sorted(records.examples(own, "test"))
    drawn = stored(directory, "train") + stored(directory, "validation")
    assert sorted(drawn) == sorted(records.examples(own, "train"))
    assert dataset.median_area(directory) == 32 * 32
