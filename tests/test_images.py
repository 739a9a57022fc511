import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from stages import InputError
from stages.images import dataset, sources
from stages.params import Dataset

ROOT = Path(__file__).parents[1]
TFDS_DIR = Path(__file__).parents[2] / "shared" / "data" / "tfds"
Transpose = Image.Transpose


def prepared(directory: Path, name, **settings) -> Path:
    sources.prepare(Dataset(name=str(name), **settings), directory)
    return directory


def stored(directory: Path, split: str) -> list[dataset.Example]:
    return list(dataset.encoded_examples(tfds.builder_from_directory(directory).info, split))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def noise(seed: int, height=9, width=12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(folder: Path, **counts: int) -> Path:
    """Folders of `counts` images of noise, none like another."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise(1000 * label + index).save(folder / name / f"{index}.png")
    return folder


# Splits


def examples(*counts: int) -> list[dataset.Example]:
    return [(f"{label} {index}".encode(), label) for label, count in enumerate(counts) for index in range(count)]


def test_splits_are_stratified():
    found = examples(100, 37, 8, 1)
    splits = dataset.assign_splits(found, validation=0.2, test=0.1)
    for label, count in enumerate((100, 37, 8, 1)):
        sizes = Counter(split for split, (_, of) in zip(splits, found, strict=True) if of == label)
        assert abs(sizes["test"] - 0.1 * count) <= 1
        assert abs(sizes["validation"] - 0.2 * count) <= 1
        assert sizes["train"] >= 0.7 * count - 1
    assert set(splits) == {"train", "validation", "test"}


def test_splits_depend_on_neither_order_nor_other_classes():
    found = examples(50, 50)
    expected = dict(zip(found, dataset.assign_splits(found, validation=0.3, test=0.3), strict=True))
    shuffled = random.Random(0).sample(found, len(found))
    again = dataset.assign_splits(shuffled, validation=0.3, test=0.3)
    assert dict(zip(shuffled, again, strict=True)) == expected
    alone = dataset.assign_splits(found[:50], validation=0.3, test=0.3)
    assert alone == [expected[example] for example in found[:50]]


def test_copies_of_an_image_share_a_split():
    found = examples(40, 40)
    copies = [(encoded, label) for encoded, label in found if label == 0] * 2
    mislabelled = [(encoded, 1) for encoded, label in found if label == 0]
    everything = found + copies + mislabelled
    splits_of = {}
    for (encoded, _), split in zip(
        everything, dataset.assign_splits(everything, validation=0.3, test=0.3), strict=True
    ):
        splits_of.setdefault(encoded, set()).add(split)
    assert {len(splits) for splits in splits_of.values()} == {1}
    assert set.union(*splits_of.values()) == {"train", "validation", "test"}


def test_splits_are_the_same_on_every_machine():
    splits = dataset.assign_splits(examples(10), validation=0.3, test=0.2)
    # By SHA-256 of "0 0" to "0 9": 6, 4, 2, 1, 7, 5, 0, 8, 9, 3.
    assert [index for index, split in enumerate(splits) if split == "test"] == [4, 6]
    assert [index for index, split in enumerate(splits) if split == "validation"] == [1, 2, 7]


def test_more_validation_leaves_the_test_images():
    found = examples(100)
    little, much = (dataset.assign_splits(found, validation=share, test=0.2) for share in (0.1, 0.5))
    assert [split == "test" for split in little] == [split == "test" for split in much]
    assert set(dataset.assign_splits(found, validation=0.2, test=0.0)) == {"train", "validation"}


# Embedded digits


@pytest.fixture(scope="module")
def mnist5k(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("mnist5k") / "dataset", "mnist5k")


@pytest.fixture(scope="module")
def digits(mnist5k):
    return {split: dataset.read(split, (28, 28), mnist5k) for split in dataset.SPLITS}


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
        "from stages.images import dataset\n"
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


def upright(height=40, width=60) -> Image.Image:
    """Red grows downwards, green to the right: no turn or mirroring leaves it as it is."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * y / (height - 1), 255 * x / (width - 1), np.full((height, width), 90)], axis=-1)
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


GREY = upright().convert("L")
# What each class's one image is, as it must come back; the folder sorts them by name.
KINDS = {
    "alpha": upright(),
    "cmyk": upright(),
    "grey": GREY.convert("RGB"),
    "grey16": GREY.convert("RGB"),
    "jpeg": upright(),
    **{f"orientation{number}": upright() for number in range(2, 9)},
    "palette": upright().quantize(256).convert("RGB"),
    "png": upright(),
    **{f"square{number}": upright(50, 50) for number in (3, 6)},
    "webp": upright(),
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Prepared from one folder for each kind of image, holding just one."""
    folder = tmp_path_factory.mktemp("kinds")
    for name in KINDS:
        (folder / name / "below").mkdir(parents=True)
    opaque = upright().convert("RGBA")
    opaque.putalpha(200)
    opaque.save(folder / "alpha" / "a.png")
    upright().convert("CMYK").save(folder / "cmyk" / "a.jpg", quality=95)
    GREY.save(folder / "grey" / "a.png")
    Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257).save(folder / "grey16" / "a.png")
    upright().save(folder / "jpeg" / "below" / "a.JPEG", quality=95)
    upright().quantize(256).save(folder / "palette" / "a.gif")
    upright().save(folder / "png" / "a.png")
    upright().save(folder / "webp" / "a.webp", lossless=True)
    for number in range(2, 9):
        with_orientation(upright(), number, folder / f"orientation{number}" / "a.jpg")
    for number in (3, 6):
        with_orientation(upright(50, 50), number, folder / f"square{number}" / "a.jpg")
    (folder / "png" / ".DS_Store").write_text("no image")
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
    return {dataset.labels(kinds)[label]: Image.open(io.BytesIO(encoded)) for encoded, label in stored(kinds, "train")}


@pytest.mark.parametrize("kind", KINDS)
def test_folder_s_images_come_upright_in_rgb(by_kind, kind):
    image = by_kind[kind]
    assert (image.mode, image.size) == ("RGB", KINDS[kind].size)
    assert image.format in ("JPEG", "PNG")
    difference = np.abs(np.asarray(image, float) - np.asarray(KINDS[kind], float))
    assert difference.max() <= (8 if kind in ("jpeg", "cmyk") or kind[-1].isdigit() else 0)


def test_untouched_files_keep_their_bytes(kinds, tmp_path):
    upright().save(tmp_path / "a.jpg", quality=95)
    label = dataset.labels(kinds).index("jpeg")
    assert [encoded for encoded, of in stored(kinds, "train") if of == label] == [(tmp_path / "a.jpg").read_bytes()]


def test_read_resizes_height_and_width_separately(kinds):
    images, labels = dataset.read("train", (20, 30), kinds)
    assert images.shape[1:] == (20, 30, 3)
    (image,) = images[labels == dataset.labels(kinds).index("png")]
    assert np.abs(image.astype(float) - np.asarray(upright(20, 30), float)).max() < 8


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
    assert refusal(tmp_path / "out", folder) == (
        f"dataset.name is {str(folder)!r}: needs two or more folders with images in each, found ant (3)"
    )


def test_empty_class_is_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=3, bee=0)
    assert refusal(tmp_path / "out", folder).endswith("found ant (3), bee (0)")


def test_folder_without_folders_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    noise(0).save(tmp_path / "folder" / "a.png")
    assert refusal(tmp_path / "out", tmp_path / "folder").endswith("found none")


@pytest.mark.parametrize("content", [b"no image", b"", png(noise(0))[:200], png(noise(0)).replace(b"IDAT", b"IDAX")])
def test_unreadable_file_is_named(tmp_path, content):
    folder = write_folder(tmp_path / "folder", ant=3, bee=3)
    (folder / "bee" / "bad.png").write_bytes(content)
    assert refusal(tmp_path / "out", folder).startswith(f"{folder / 'bee' / 'bad.png'} can't be read as an image: ")


def test_too_few_images_for_the_splits_are_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=2, bee=2)
    assert str(folder) in refusal(tmp_path / "out", folder)


@pytest.mark.parametrize("name", ["mnist5", "no/such/folder"])
def test_unknown_name_is_refused(tmp_path, name):
    message = refusal(tmp_path / "out", name)
    assert message.startswith(f"dataset.name is {name!r}: neither mnist5k, nor a folder, nor a TFDS set")


# TFDS sets


def test_tfds_set_keeps_its_own_splits(tmp_path):
    """A handful of images in the form of a prepared cifar10 stand for it: TFDS itself reads them."""
    builder = tfds.builder("cifar10", data_dir=tmp_path / "tfds")
    names = builder.info.features["label"].names
    own = {
        split: [(png(noise(seed, 32, 32)), seed % 10) for seed in seeds]
        for split, seeds in {"train": range(100, 200), "test": range(20)}.items()
    }
    target = Path(builder.data_dir)
    dataset.write(target, names, {split: lambda split=split: iter(own[split]) for split in own})
    for path in target.glob("dataset-*"):
        path.rename(target / path.name.replace("dataset-", "cifar10-"))
    info = target / "dataset_info.json"
    as_cifar10 = {"name": builder.name, "version": str(builder.version)}
    info.write_text(json.dumps(json.loads(info.read_text()) | as_cifar10))

    directory = prepared(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"), validation=0.2, test=0.5)
    assert dataset.labels(directory) == tuple(names)
    # TFDS writes examples in an order of its own.
    assert sorted(stored(directory, "test")) == sorted(own["test"])
    drawn = {split: stored(directory, split) for split in ("train", "validation")}
    assert sorted(drawn["train"] + drawn["validation"]) == sorted(own["train"])
    assert Counter(label for _, label in drawn["validation"]) == dict.fromkeys(range(10), 2)


@pytest.mark.skipif(not (TFDS_DIR / "cifar10").exists(), reason=f"needs CIFAR-10, prepared by TFDS in {TFDS_DIR}")
def test_cifar10(tmp_path):
    directory = prepared(tmp_path / "out", "cifar10", data_dir=str(TFDS_DIR), validation=0.04, test=0.5)
    counts = {split: dataset.count(split, directory) for split in dataset.SPLITS}
    assert counts == {"train": 48_000, "validation": 2000, "test": 10_000}
    own = tfds.builder("cifar10", data_dir=TFDS_DIR).info
    assert sorted(stored(directory, "test")) == sorted(dataset.encoded_examples(own, "test"))
    drawn = stored(directory, "train") + stored(directory, "validation")
    assert sorted(drawn) == sorted(dataset.encoded_examples(own, "train"))
    assert dataset.median_area(directory) == 32 * 32


# Damage


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    directory = tmp_path_factory.mktemp("small")
    folder = write_folder(directory / "folder", ant=10, bee=10)
    return prepared(directory / "dataset", folder, validation=0.3, test=0.3)


@pytest.fixture
def damaged(small, tmp_path):
    """A copy of `small`, the file of its training images, and where its last record begins."""
    directory = shutil.copytree(small, tmp_path / "dataset")
    (path,) = directory.glob("*train*")
    content = path.read_bytes()
    starts = [0]
    while starts[-1] < len(content):
        starts.append(starts[-1] + 16 + struct.unpack_from("<Q", content, starts[-1])[0])
    return directory, path, starts[-2]


@pytest.mark.parametrize(
    "cut", ["nothing left", "first length", "record", "between records", "last length", "last record"]
)
def test_truncated_file_is_named(damaged, cut):
    directory, path, last = damaged
    content = path.read_bytes()
    ends = {
        "nothing left": 0, "first length": 5, "record": 40, "between records": last, "last length": last + 3,
        "last record": len(content) - 9,
    }  # fmt: skip
    path.write_bytes(content[: ends[cut]])
    with pytest.raises(InputError) as error:
        dataset.read("train", (9, 12), directory)
    assert str(error.value).startswith(str(path))


def test_missing_file_is_named(damaged):
    directory, path, _ = damaged
    path.unlink()
    with pytest.raises(InputError) as error:
        dataset.read("train", (9, 12), directory)
    assert str(path) in str(error.value)


def test_missing_directory_says_what_to_run(tmp_path):
    for use in (dataset.labels, dataset.median_area, lambda d: dataset.read("test", (8, 8), d)):
        with pytest.raises(InputError, match="nowhere is no prepared data set; run: dvc repro download"):
            use(tmp_path / "nowhere")
