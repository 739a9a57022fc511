import io
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from preparing import noise, png, prepared, refusal, stored

from bitlite.images import dataset, records
from bitlite.images.records import Example
from bitlite.sources import bucket, catalog

SHARED = Path(__file__).parents[2] / "shared" / "data"
TFDS_DIR, FLOWERS = SHARED / "tfds", SHARED / "flowers"


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
    monkeypatch.setattr(catalog, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = "http://{}:{}".format(*proxy.getsockname())
        if answer == "refused":
            proxy.close()
        for variable in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", address)
        start = time.monotonic()
        message = refusal(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"))
    assert time.monotonic() - start < 5
    assert message.startswith("dataset.name is 'cifar10', which is not prepared in ")
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz can't be reached" in message
    assert message.endswith("give the TFDS directory that holds a prepared copy as dataset.data_dir")


# Sets of one's own


def write_own(
    data_dir: Path,
    splits: dict[str, int],
    *,
    name="my_set",
    version="1.0.0",
    classes=("ant", "bee"),
    shards=None,
    **kind,
) -> Path:
    """Prepare so many images a split, alternately of the first two classes, and give the set's directory."""
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=list(classes))}
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        features=features,
        split_datasets={
            split: [
                (key, {"image": io.BytesIO(png(noise(1000 * number + key))), "label": key % 2}) for key in range(count)
            ]
            for number, (split, count) in enumerate(splits.items())
        },
        data_dir=data_dir,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=shards),
        **kind,
    )
    return data_dir / name / version


def made(number: int, count: int) -> list[Example]:
    """The images of a split that `write_own` makes, in the order of their bytes."""
    return sorted((png(noise(1000 * number + key)), key % 2) for key in range(count))


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_own_set_is_read_by_name_and_by_path(tmp_path, monkeypatch, file_format):
    if file_format == "array_record":
        pytest.importorskip("array_record", reason="there is no package array_record for this system")
    directory = write_own(tmp_path / "tfds", {"train": 40, "test": 8}, file_format=file_format)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [("my_set", str(tmp_path / "tfds")), ("my_set:1.0.0", "~/tfds"), (directory, None), ("~/tfds/my_set", None)]
    for number, (name, data_dir) in enumerate(names):
        out = prepared(tmp_path / f"out{number}", name, data_dir=data_dir, validation=0.25)
        assert dataset.labels(out) == ("ant", "bee")
        assert sorted(stored(out, "test")) == made(1, 8)
        assert sorted(stored(out, "train") + stored(out, "validation")) == made(0, 40)
        assert dataset.count("validation", out) == 10


BUILDER = """
import sys
import numpy as np
import tensorflow_datasets as tfds

class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "kind": tfds.features.ClassLabel(names=["ant", "bee"]),
            "weight": np.float32,
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("picture", "kind")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 40), "test": self._generate_examples(1000, 8)}

    def _generate_examples(self, first, count):
        for number in range(first, first + count):
            pixels = np.random.default_rng(number).integers(256, size=(9, 12, 3), dtype=np.uint8)
            yield number, {"picture": pixels, "kind": number % 2, "weight": 0.5}
"""
BUILD = """
from my_beetles.my_beetles_dataset_builder import Builder
Builder(data_dir=sys.argv[1], file_format=sys.argv[2]).download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
)
"""


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_set_that_tfds_build_made_is_read_without_its_code(tmp_path, file_format):
    """As `tfds build` does, which itself can't be run: that of TFDS 4.9.10 wants Apache Beam."""
    if file_format == "array_record":
        pytest.importorskip("array_record", reason="there is no package array_record for this system")
    script = tmp_path / "my_beetles" / "my_beetles_dataset_builder.py"
    script.parent.mkdir()
    script.write_text(BUILDER)
    script.with_name("__init__.py").touch()
    build = f"import sys\nimport tensorflow_datasets as tfds\n{BUILD}"
    command = [sys.executable, "-c", build, tmp_path / "tfds", file_format]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    shown = {number: (np.asarray(noise(number)).tolist(), number % 2) for number in (*range(40), *range(1000, 1008))}
    for place, (name, data_dir) in enumerate(
        [("my_beetles", str(tmp_path / "tfds")), (tmp_path / "tfds/my_beetles", None)]
    ):
        out = prepared(tmp_path / f"out{place}", name, data_dir=data_dir, validation=0.25)
        assert dataset.labels(out) == ("ant", "bee")
        found = {}
        for split in dataset.SPLITS:
            pixels, labels = dataset.read(split, (9, 12), out)
            found[split] = sorted(zip(pixels[:].tolist(), labels.tolist(), strict=True))
        assert found["test"] == sorted(shown[number] for number in range(1000, 1008))
        assert sorted(found["train"] + found["validation"]) == sorted(shown[number] for number in range(40))


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_own_set_of_several_files_is_read_whole(tmp_path, file_format):
    if file_format == "array_record":
        pytest.importorskip("array_record", reason="there is no package array_record for this system")
    directory = write_own(tmp_path / "tfds", {"train": 40, "test": 8}, file_format=file_format, shards=7)
    assert len(list(directory.glob(f"*train.{file_format}*"))) == 7
    out = prepared(tmp_path / "out", directory, validation=0.25)
    assert sorted(stored(out, "test")) == made(1, 8)
    assert sorted(stored(out, "train") + stored(out, "validation")) == made(0, 40)


# Buckets


@pytest.fixture
def in_memory(tmp_path):
    """A set in a file system of TensorFlow's own, which stands in for a bucket: the same functions read both."""
    import tensorflow as tf

    directory = write_own(tmp_path / "tfds", {"train": 40, "test": 8})
    address = f"ram://{tmp_path.name}/my_set"
    for path in directory.iterdir():
        tf.io.gfile.makedirs(f"{address}/1.0.0")
        tf.io.gfile.copy(str(path), f"{address}/1.0.0/{path.name}", overwrite=True)
    return address


def test_a_set_in_a_bucket_is_copied_and_read(tmp_path, in_memory):
    names = [(in_memory, None), (f"{in_memory}/1.0.0/", None), ("my_set", in_memory.removesuffix("my_set"))]
    names.append(("my_set:1.0.0", in_memory.removesuffix("/my_set")))
    for place, (name, data_dir) in enumerate(names):
        out = prepared(tmp_path / f"out{place}", name, data_dir=data_dir, validation=0.25)
        assert sorted(stored(out, "test")) == made(1, 8)
        assert sorted(stored(out, "train") + stored(out, "validation")) == made(0, 40)


def test_files_of_a_bucket_that_are_here_are_not_copied_again(tmp_path, in_memory):
    bucket.copy(in_memory, tmp_path / "copy")
    paths = sorted((tmp_path / "copy" / "1.0.0").iterdir())
    before = {path: path.stat().st_mtime_ns for path in paths}
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    bucket.copy(in_memory, tmp_path / "copy")
    assert [path for path in paths if path.stat().st_mtime_ns != before[path]] == paths[:1]
    assert sorted((tmp_path / "copy" / "1.0.0").iterdir()) == paths


@pytest.mark.parametrize(
    ("name", "data_dir", "address", "why"),
    [
        ("my_set", "ram://nowhere", "ram://nowhere/my_set", "there is no set that TFDS prepared"),
        ("s3://nowhere/set", None, "s3://nowhere/set", "File system scheme 's3' not implemented"),
        ("cifar10", "s3://nowhere", "s3://nowhere/cifar10", "File system scheme 's3' not implemented"),
        ("https://nowhere/set", None, "https://nowhere/set", "File system scheme 'https' not implemented"),
    ],
)
def test_a_bucket_that_can_t_be_read_is_told_with_the_way_out(tmp_path, name, data_dir, address, why):
    message = refusal(tmp_path / "out", name, data_dir=data_dir)
    assert message.startswith(f"dataset.name or dataset.data_dir leads to {address}, which can't be read: {why}")
    by = " by `aws s3 cp --recursive`" if address.startswith("s3://") else ""
    assert message.endswith(f"copy the set to this machine{by}, and name that directory")


def test_without_a_network_a_bucket_of_google_s_is_refused_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # which never answers
        for variable in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", "http://{}:{}".format(*proxy.getsockname()))
        start = time.monotonic()
        message = refusal(tmp_path / "out", "cifar10", data_dir="gs://some-bucket/tfds")
    assert time.monotonic() - start < 5
    assert (
        "gs://some-bucket/tfds/cifar10, which can't be read: https://storage.googleapis.com can't be reached" in message
    )


def test_own_set_in_another_format_tells_which_it_needs(tmp_path):
    pytest.importorskip("pyarrow", reason="TFDS writes parquet by pyarrow")
    directory = write_own(tmp_path / "tfds", {"train": 8}, file_format="parquet")
    assert refusal(tmp_path / "out", directory) == (
        f"dataset.name is {str(directory)!r}, whose files are parquet; prepare it as tfrecord or array_record"
    )


def test_damaged_array_record_is_named(tmp_path):
    pytest.importorskip("array_record", reason="there is no package array_record for this system")
    (path,), (other,) = (
        write_own(tmp_path / data_dir, {"train": count}, file_format="array_record").glob("*.array_record*")
        for data_dir, count in (("tfds", 40), ("other", 50))
    )
    for content in (path.read_bytes()[: path.stat().st_size // 2], b"", other.read_bytes()):
        path.write_bytes(content)
        assert refusal(tmp_path / "out", path.parent).startswith(
            f"{path} is damaged or does not hold all of its images"
        )


def test_images_that_can_t_be_read_are_counted_and_named(tmp_path):
    images = [png(noise(seed, 32, 32)) for seed in range(8)]
    images[2], images[5] = images[2][:200], b"no image"
    write_tfds(tmp_path / "tfds", "cifar10", {"train": [(encoded, 0) for encoded in images]}, id="")
    message = refusal(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"))
    assert message.startswith("dataset.name is 'cifar10', which has images that can't be read (2): ")
    assert message.count(" of train, ") == 2 and "none of JPEG, PNG, BMP, WEBP, GIF, TIFF" in message
    assert message.endswith("; leave them out by dataset.on_error: skip")


def test_images_that_can_t_be_read_are_left_out_and_printed_when_that_is_asked_for(tmp_path, capsys):
    good = cifar_like(range(40))
    write_tfds(tmp_path / "tfds", "cifar10", {"train": [*good, (b"no image", 3), (good[5][0][:200], 5)]}, id="")
    directory = prepared(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"), on_error="skip")
    assert "cifar10: left out images that can't be read (2): " in capsys.readouterr().err
    assert sorted(found for split in dataset.SPLITS for found in stored(directory, split)) == sorted(good)


def test_images_of_16_bits_are_shown_by_the_range_that_the_set_uses(tmp_path, capsys):
    values = np.random.default_rng(0).integers(4095, endpoint=True, size=(30, 16, 16, 1)).astype(np.uint16)
    values[0, 0, 0] = 4095
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name="deep",
        version="1.0.0",
        features=features,
        split_datasets={
            "train": [(key, {"image": image, "label": key % 2}) for key, image in enumerate(values)],
        },
        data_dir=tmp_path / "tfds",
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    directory = prepared(tmp_path / "out", "deep", data_dir=str(tmp_path / "tfds"), validation=0.2, test=0.2)
    read = np.concatenate([dataset.read(split, (16, 16), directory)[0][:] for split in dataset.SPLITS])
    expected = np.repeat(np.rint(values * (255 / 4095)), 3, axis=-1).astype(np.uint8)
    assert sorted(read.tolist()) == sorted(expected.tolist())
    assert "deep: in images of uint16 samples 0..4095 is shown as black to white" in capsys.readouterr().err


def test_directory_of_several_versions_asks_for_one(tmp_path):
    versions = [write_own(tmp_path / "tfds", {"train": 4}, version=version) for version in ("1.0.0", "1.1.0")]
    message = refusal(tmp_path / "out", tmp_path / "tfds" / "my_set")
    assert message.endswith(f"which holds several sets; name one: {versions[0]}, {versions[1]}")


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
@pytest.mark.parametrize("test", ["test", "testing"])
def test_usual_names_of_splits_are_known(tmp_path, validation, test):
    directory = write_own(tmp_path / "tfds", {"training": 10, validation: 6, test: 4})
    out = prepared(tmp_path / "out", directory)
    assert [sorted(stored(out, split)) for split in dataset.SPLITS] == [made(0, 10), made(1, 6), made(2, 4)]


def test_other_splits_are_told(tmp_path, capsys):
    directory = write_own(tmp_path / "tfds", {"train": 20, "extra": 6, "val": 5, "validation": 4})
    out = prepared(tmp_path / "out", directory)
    assert sorted(stored(out, "validation")) == made(3, 4)
    told = f"{directory}: left out splits without labels or of another purpose: extra (6), val (5)\n"
    assert told in capsys.readouterr().err


def test_classes_without_images_are_left_out_and_told(tmp_path, capsys):
    directory = write_own(tmp_path / "tfds", {"train": 40}, classes=("ant", "bee", "cow", "dog"))
    out = prepared(tmp_path / "out", directory)
    assert dataset.labels(out) == ("ant", "bee")
    assert f"{directory}: left out classes without images: cow, dog\n" in capsys.readouterr().err


def test_labels_are_counted_anew_where_classes_are_left_out(tmp_path):
    images = [(png(noise(seed, 32, 32)), 3 if seed % 2 else 7) for seed in range(40)]
    names = write_tfds(tmp_path / "tfds", "cifar10", {"train": images}, id="")
    out = prepared(tmp_path / "out", "cifar10", data_dir=str(tmp_path / "tfds"))
    assert dataset.labels(out) == (names[3], names[7])
    found = [example for split in dataset.SPLITS for example in stored(out, split)]
    assert sorted(found) == sorted((encoded, {3: 0, 7: 1}[label]) for encoded, label in images)


def test_names_of_classes_that_would_not_come_back_are_refused(tmp_path):
    directory = write_own(tmp_path / "tfds", {"train": 8}, classes=("a\x85b", "bee"))
    assert refusal(tmp_path / "out", directory).endswith(
        r"which has class names with a control character or a line separator: 'a\x85b'"
    )


def test_classes_whose_names_come_back_as_one_are_refused(tmp_path):
    """TFDS keeps names in lines of a file, without the blanks at their ends."""
    directory = write_own(tmp_path / "tfds", {"train": 8}, classes=("ant", "ant "))
    assert refusal(tmp_path / "out", directory).endswith("which has several classes of one name: 'ant'")


@pytest.mark.parametrize("damaged", ["features.json", "dataset_info.json"])
def test_damaged_set_is_told_in_one_line(tmp_path, damaged):
    directory = write_own(tmp_path / "tfds", {"train": 8})
    (directory / damaged).write_text("{")
    for name, data_dir in ((str(directory), None), ("my_set", str(tmp_path / "tfds"))):
        assert refusal(tmp_path / "out", name, data_dir=data_dir).startswith(
            f"dataset.name is {name!r}, which TFDS can't load: "
        )


def test_data_dir_that_is_not_there_is_told(tmp_path):
    message = refusal(tmp_path / "out", "my_set", data_dir=str(tmp_path / "none"))
    assert message.endswith(f" or in dataset.data_dir, {tmp_path / 'none'}, which is not there")


# Sets that lie beside the project


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
    assert sorted(stored(directory, "test")) == sorted(map(records.example, records.Records(own, "test")))
    drawn = stored(directory, "train") + stored(directory, "validation")
    assert sorted(drawn) == sorted(map(records.example, records.Records(own, "train")))
    assert dataset.median_area(directory) == 32 * 32
