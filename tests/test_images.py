"""The prepared data set: its images as an array that memory need not hold, and damage, which is named."""

import io
import resource
import shutil
import struct
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bitlite.images import dataset, records
from bitlite.workflow.errors import InputError

COUNT = 12


@pytest.fixture
def prepared(tmp_path):
    random = np.random.default_rng(0)
    examples = []
    for index in range(COUNT):
        file = io.BytesIO()
        Image.fromarray(random.integers(256, size=(10 + index, 14, 3), dtype=np.uint8)).save(file, "png")
        examples.append((file.getvalue(), index % 3))
    dataset.write(tmp_path / "set", ["a", "b", "c"], {"train": examples, "test": examples[:2]})
    return tmp_path / "set"


@pytest.fixture
def expected(prepared):
    images = (Image.open(io.BytesIO(encoded)) for encoded, _ in dataset.examples("train", prepared))
    return np.stack([np.asarray(image.resize((8, 6), Image.Resampling.BILINEAR)) for image in images])


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_any_part_is_what_the_whole_holds(prepared, expected, cache_mb):
    pixels, labels = dataset.read("train", (6, 8), prepared, cache_mb=cache_mb)
    assert pixels.shape == expected.shape == (COUNT, 6, 8, 3)
    assert len(pixels) == len(labels) == COUNT
    for _ in range(2):
        assert np.array_equal(pixels[[7, 0, 7]], expected[[7, 0, 7]])
        assert np.array_equal(pixels[3:9:2], expected[3:9:2])
        assert np.array_equal(pixels[-1], expected[-1])
        assert np.array_equal(np.stack(list(pixels)), expected)
        assert pixels[:0].shape == (0, 6, 8, 3)
    assert pixels[:].dtype == np.uint8


def test_chosen_images_are_gone_through_as_often_as_wanted(prepared, expected):
    pixels, _ = dataset.read("train", (6, 8), prepared)
    numbers = np.array([3, 0, 2])
    chosen = pixels.chosen(numbers)
    for _ in range(2):
        assert np.array_equal(np.stack(list(chosen)), expected[numbers])
    assert len(chosen) == 3 and np.array_equal(chosen[1:], expected[numbers[1:]])


def test_image_that_is_kept_is_not_decoded_again(prepared, expected):
    pixels, _ = dataset.read("train", (6, 8), prepared, cache_mb=1)
    pixels[2:9]
    for path in prepared.glob("*.tfrecord*"):
        path.unlink()
    assert np.array_equal(pixels[2:9], expected[2:9])
    with pytest.raises(InputError, match="does not hold all of its images"):
        pixels[1:4]


def test_no_more_than_the_bound_is_kept(tmp_path, prepared):
    # 400 x 300 x 3 bytes an image: two in a MB.
    pixels, _ = dataset.read("train", (400, 300), prepared, cache_mb=1)
    pixels[:]
    for path in prepared.glob("*.tfrecord*"):
        path.unlink()
    pixels[:2]
    with pytest.raises(InputError):
        pixels[2]


@pytest.mark.parametrize("index", [True, False], ids=["with an index", "without"])
def test_digest_tells_data_sets_apart(tmp_path, index):
    """A large set's images are not read for that: the index has their checksums."""
    digests = set()
    for name, last in (("a", b"content"), ("same", b"content"), ("b", b"cOntent")):
        dataset.write(tmp_path / name, ["a", "b"], {"train": [(b"one", 0), (last, 1)], "test": [(b"two", 0)]})
        if not index:
            (tmp_path / name / dataset.INDEX).unlink()
        digests.add(dataset.digest(tmp_path / name))
    assert len(digests) == 2


def test_a_set_without_an_index_reads_the_same(prepared):
    pixels, labels = dataset.read("train", (6, 8), prepared)
    (prepared / dataset.INDEX).unlink()
    walked, its = dataset.read("train", (6, 8), prepared)
    assert np.array_equal(walked[:], pixels[:])
    assert its.tolist() == labels.tolist() == [label for _, label in dataset.examples("train", prepared)]
    assert its.dtype == labels.dtype == np.int32


def test_index_says_what_the_files_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD", 2000)
    random = np.random.default_rng(0)
    examples = [(random.bytes(random.integers(10, 900)), number % 300) for number in range(40)]
    dataset.write(tmp_path / "set", map(str, range(300)), {"train": examples, "test": examples[:2]})
    paths = sorted((tmp_path / "set").glob("*train*"))
    assert len(paths) > 5 and all(2000 <= path.stat().st_size < 3000 for path in paths[:-1])
    assert paths[0].name == f"dataset-train.tfrecord-00000-of-{len(paths):05}"
    table = np.load(tmp_path / "set" / dataset.INDEX)["train"]
    (tmp_path / "set" / dataset.INDEX).unlink()
    walked = records.Records(tfds.builder_from_directory(tmp_path / "set").info, "train")
    assert len(walked) == 40 and all(np.array_equal(walked.table[name], table[name]) for name in ("offset", "length"))
    contents = [record.read() for record in walked]
    assert [records.checksum(content) for content in contents] == [row.tobytes() for row in table["checksum"]]
    assert [records.parsed(content)[1] for content in contents] == table["label"].tolist()
    assert sorted(map(records.parsed, contents)) == sorted(examples)


def test_files_are_those_that_tfds_writes(tmp_path, prepared):
    """In the same order too; but for the index, which TFDS has not."""
    import bitlite.workflow.environment  # noqa: F401

    random = np.random.default_rng(0)
    splits = {
        split: [(random.bytes(random.integers(1, 300)), int(random.integers(3))) for _ in range(count)]
        for split, count in (("train", 150), ("validation", 7), ("test", 1))
    }
    dataset.write(tmp_path / "ours", ["ä", "b", "c"], splits)
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=["ä", "b", "c"])
    }  # fmt: skip
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="dataset",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: [(key, {"image": io.BytesIO(encoded), "label": label}) for key, (encoded, label) in enumerate(found)]
            for split, found in splits.items()
        },
        data_dir=tmp_path / "tfds",
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    theirs = {path.name: path.read_bytes() for path in builder.data_path.iterdir()}
    ours = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    assert ours.pop(dataset.INDEX)
    examples = [(kind, list(dataset.examples(kind, tmp_path / name))) for name in ("ours",) for kind in splits]
    own = [(kind, [records.example(each) for each in records.Records(builder.info, kind)]) for kind in splits]
    assert examples == own
    assert {name: theirs[name] for name in theirs if "tfrecord" not in name} == {
        name: ours[name] for name in ours if "tfrecord" not in name
    }
    assert set(ours) == set(theirs)


# Damage


@pytest.fixture
def damaged(prepared):
    """The data set, the file of its training images, and where its last record begins."""
    (path,) = prepared.glob("*train*")
    content = path.read_bytes()
    starts = [0]
    while starts[-1] < len(content):
        starts.append(starts[-1] + 16 + struct.unpack_from("<Q", content, starts[-1])[0])
    return prepared, path, starts[-2]


@pytest.mark.parametrize(
    "cut", ["nothing left", "first length", "record", "between records", "last length", "last record", "last checksum"]
)
def test_truncated_file_is_named(damaged, cut):
    directory, path, last = damaged
    content = path.read_bytes()
    ends = {
        "nothing left": 0, "first length": 5, "record": 40, "between records": last, "last length": last + 3,
        "last record": len(content) - 9, "last checksum": len(content) - 2,
    }  # fmt: skip
    path.write_bytes(content[: ends[cut]])
    with pytest.raises(InputError) as error:
        dataset.read("train", (9, 12), directory)
    assert str(error.value).startswith(str(path))


def test_any_flipped_bit_of_a_file_of_records_is_told(damaged):
    directory, path, last = damaged
    content = path.read_bytes()
    # Of a length, its checksum, the content, its checksum; and anywhere.
    places = [last, last + 9, last + 60, len(content) - 1, *np.random.default_rng(0).integers(len(content), size=40)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError) as error:
            list(dataset.examples("train", directory))
        assert str(error.value).startswith(str(path)) and str(error.value).endswith("prepare it again")
    path.write_bytes(content)
    assert len(list(dataset.examples("train", directory))) == COUNT


def test_checksums_are_tensorflow_s(damaged):
    import tensorflow as tf

    directory, path, _ = damaged
    with tf.io.TFRecordWriter(str(path.with_name("own"))) as writer:
        writer.write(b"content")
    assert path.with_name("own").read_bytes()[-4:] == records.checksum(b"content")


def test_remedy_is_a_stage_s_for_what_it_wrote(damaged, monkeypatch, tmp_path):
    directory, path, _ = damaged
    monkeypatch.chdir(tmp_path)
    shutil.copytree(directory, dataset.DATASET)
    (dataset.DATASET / path.name).write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="dvc repro --force download@dataset$"):
        list(dataset.examples("train"))


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut short"])
def test_image_that_can_t_be_decoded_is_named_by_file_and_record(damaged, content):
    directory, path, last = damaged
    (directory / dataset.INDEX).unlink()
    whole = path.read_bytes()
    info = tfds.builder_from_directory(directory).info
    encoded, label = list(dataset.examples("train", directory))[-1]
    content = encoded[: len(encoded) // 2] if content is None else content
    record = info.features.serialize_example({"image": io.BytesIO(content), "label": label})
    length = struct.pack("<Q", len(record))
    path.write_bytes(whole[:last] + length + records.checksum(length) + record + records.checksum(record))
    pixels, _ = dataset.read("train", (9, 12), directory)
    with pytest.raises(InputError, match=f"{path.name}, record {COUNT - 1} can't be read: "):
        pixels[COUNT - 1]


@pytest.mark.parametrize("damage", ["cut", "flipped", "no split", "another length", "another file"])
def test_damaged_index_is_told(prepared, damage):
    index = prepared / dataset.INDEX
    content = bytearray(index.read_bytes())
    content[len(content) // 3] ^= 1
    tables = dict(np.load(index))
    if damage == "cut":
        index.write_bytes(index.read_bytes()[:-30])
    elif damage == "flipped":
        index.write_bytes(content)
    elif damage == "no split":
        np.savez(index, test=tables["test"])
    elif damage == "another length":
        np.savez(index, **{**tables, "train": tables["train"][1:]})
    else:
        np.savez(index, **{**tables, "train": np.arange(COUNT)})
    with pytest.raises(InputError) as error:
        dataset.read("train", (9, 12), prepared)
    assert str(error.value).startswith(str(index)) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json", "label.labels.txt"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\0"], ids=str)
def test_damaged_description_of_the_set_is_told(prepared, file, content):
    if content is None:
        (prepared / file).unlink()
    else:
        (prepared / file).write_bytes(content)
    with pytest.raises(InputError) as error:
        dataset.labels(prepared)
    assert str(error.value).startswith(str(prepared)) and len(str(error.value).splitlines()) == 1


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


def test_a_data_set_that_can_t_be_written_is_told_in_one_line_and_the_old_one_stays(prepared, monkeypatch, tmp_path):
    """As on a full disk."""
    before = {path: path.read_bytes() for path in prepared.iterdir()}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    encoded = np.random.default_rng(0).bytes(10**5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * 10**4, limit[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{prepared}'") as error:
            dataset.write(prepared, ["a"], {"train": [(encoded, 0)]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(str(error.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in prepared.iterdir()} == before
    assert set(tmp_path.iterdir()) == {prepared, tmp_path / "tmp"} and not any((tmp_path / "tmp").iterdir())
