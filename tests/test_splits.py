import hashlib
import io
import random
import shutil
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparing import noise, prepared, refusal, stored, write_folder

from bitlite.images import dataset
from bitlite.images.records import Example
from bitlite.sources import splits as splitting
from bitlite.sources.folder import source
from bitlite.sources.source import Entry

# Splits


def entries(*counts: int) -> list[Entry]:
    return [
        Entry(Path(f"{label} {index}"), label, hashlib.sha256(f"{label} {index}".encode()).digest())
        for label, count in enumerate(counts)
        for index in range(count)
    ]


def sizes(found: list[Entry], **shares: float) -> dict[str, Counter]:
    """How many images of each class each split has."""
    splits = splitting.assign(found, **shares)
    return {
        split: Counter(entry.label for entry, of in zip(found, splits, strict=True) if of == split)
        for split in dataset.SPLITS
    }


@pytest.mark.parametrize("counts", [(100, 37, 8, 5), (7,) * 30, (900, 3, 3), (2, 2, 2, 2, 2, 2, 2)])
@pytest.mark.parametrize(("validation", "test"), [(0.2, 0.1), (0.15, 0.15), (0.05, 0.3)])
def test_shares_hold_for_the_set_and_nearly_for_each_class(counts, validation, test):
    split = sizes(entries(*counts), validation=validation, test=test)
    assert split["test"].total() == round(sum(counts) * test)
    assert split["test"].total() + split["validation"].total() == round(sum(counts) * (test + validation))
    for label, count in enumerate(counts):
        assert abs(split["test"][label] - test * count) <= 1
        assert abs(split["validation"][label] - validation * count) <= 1.5
        assert split["train"][label] >= 1


def test_fifty_classes_of_four_images_have_all_splits():
    split = sizes(entries(*[4] * 50), validation=0.15, test=0.15)
    assert {name: found.total() for name, found in split.items()} == {"train": 140, "validation": 30, "test": 30}
    assert min(split["train"].values()) >= 2 and len(split["train"]) == 50


def test_equal_classes_have_equal_shares_where_these_are_whole_numbers():
    split = sizes(entries(*[20] * 7), validation=0.25, test=0.1)
    assert split == {
        name: dict.fromkeys(range(7), number) for name, number in (("train", 13), ("validation", 5), ("test", 2))
    }


def test_last_image_of_a_class_stays_in_training_and_others_do_not_make_up_for_it():
    split = sizes(entries(*[1] * 300, 100), validation=0.3, test=0.3)
    assert split["train"] == {**dict.fromkeys(range(300), 1), 300: 40}
    assert (split["validation"], split["test"]) == ({300: 30}, {300: 30})


def test_splits_do_not_depend_on_order():
    found = entries(50, 7, 3, 1)
    found += [entry._replace(where=Path(f"{entry.where} elsewhere"), label=1) for entry in found[:25]]
    expected = dict(zip(found, splitting.assign(found, validation=0.3, test=0.3), strict=True))
    shuffled = random.Random(0).sample(found, len(found))
    again = splitting.assign(shuffled, validation=0.3, test=0.3)
    assert dict(zip(shuffled, again, strict=True)) == expected


def test_another_class_moves_few_images():
    found = entries(*[4] * 20)
    before = splitting.assign(found, validation=0.15, test=0.15)
    after = splitting.assign(entries(*[4] * 21), validation=0.15, test=0.15)[: len(found)]
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 4


def grouped(found: list[Entry], size: int) -> list[Entry]:
    """`found` in groups of `size` neighbours."""
    return [entry._replace(group=f"video {number // size}") for number, entry in enumerate(found)]


def test_images_of_a_group_share_a_split_and_shares_still_hold():
    found = grouped(entries(100, 60), 10)
    splits = splitting.assign(found, validation=0.2, test=0.2)
    split_of = {}
    for entry, split in zip(found, splits, strict=True):
        assert split_of.setdefault(entry.group, split) == split
    assert Counter(splits) == {"train": 100, "validation": 30, "test": 30}
    assert sizes(found, validation=0.2, test=0.2)["test"] == {0: 20, 1: 10}


def test_groups_that_copies_link_share_a_split():
    found = grouped(entries(40), 4)
    linked = [found[number]._replace(group=f"video {number // 4 + 1}", where=Path("copy")) for number in (0, 4, 8)]
    splits = splitting.assign(found + linked, validation=0.3, test=0.3)
    assert len(set(splits[:16])) == 1
    assert set(splits) == {"train", "validation", "test"}


def test_group_that_holds_all_images_of_a_class_stays_in_training():
    found = entries(8, 8)
    found[:8] = [entry._replace(group="the one video") for entry in found[:8]]
    split = sizes(found, validation=0.25, test=0.25)
    assert split == {"train": {0: 8, 1: 4}, "validation": {1: 2}, "test": {1: 2}}


def test_training_images_leave_whose_group_a_later_split_has():
    train, test = (grouped(entries(6), 2)[part] for part in (slice(0, 4), slice(3, 6)))
    clean = splitting.without_leaks({"train": train, "test": test})
    assert [entry.where for entry in clean["train"]] == [Path("0 0"), Path("0 1")]
    assert clean["test"] == test


def test_training_images_leave_whose_group_holds_a_copy_of_a_test_image():
    train = grouped(entries(6), 2)
    test = [train[3]._replace(where=Path("copy"), group="another video")]
    clean = splitting.without_leaks({"train": train, "test": test})
    assert clean == {"train": [*train[:2], *train[4:]], "test": test}


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
    ("most", "train"), [(3, [1, 1, 1]), (7, [4, 2, 1]), (21, [12, 6, 3]), (23, [13, 7, 3]), (1000, [24, 12, 6])]
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


def test_max_examples_below_the_number_of_classes_is_refused(uneven, tmp_path):
    folder, _ = uneven
    message = refusal(tmp_path / "out", folder, validation=0.2, test=0.2, max_examples=2)
    assert message == "dataset.max_examples is 2, fewer than the 3 classes"


def test_max_examples_takes_one_of_a_rare_class(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=100, bee=5)
    directory = prepared(tmp_path / "out", folder, validation=0.2, test=0.2, max_examples=10)
    assert Counter(label for _, label in stored(directory, "train")) == {0: 9, 1: 1}


def test_too_few_images_for_the_splits_are_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=2, bee=2)
    assert str(folder) in refusal(tmp_path / "out", folder)


def test_classes_without_images_in_a_split_are_told(tmp_path, capsys):
    folder = write_folder(tmp_path / "folder", ant=20, bee=20, cow=1)
    directory = prepared(tmp_path / "out", folder)
    assert Counter(label for _, label in stored(directory, "train"))[2] == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-2:] == [f"{folder}: classes without {split} images (1): cow" for split in ("validation", "test")]


def test_class_without_training_images_is_refused(tmp_path):
    write_folder(tmp_path / "folder" / "train", ant=5, bee=5)
    write_folder(tmp_path / "folder" / "test", seed=5000, ant=3, bee=3, cow=3)
    for on_error in ("fail", "skip"):
        message = refusal(tmp_path / "out", tmp_path / "folder", on_error=on_error, validation=0.3)
        assert "which has classes without training images (1): cow; give them some" in message


# Groups by file names


def write_videos(folder: Path) -> Path:
    """20 videos of 3 frames in each of two classes."""
    for label, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for video in range(20):
            for frame in range(3):
                image = noise(1000 * label + 10 * video + frame)
                image.save(folder / name / f"{name}_v{video:02}_{frame}.png")
    return folder


def videos_of(folder: Path, directory: Path) -> dict[str, Counter]:
    """How many frames of each video each split has, found by their pixels."""
    video_of = {pixel_hash(path.read_bytes()): path.stem.rpartition("_")[0] for path in folder.rglob("*.png")}
    return {
        split: Counter(video_of[pixel_hash(encoded)] for encoded, _ in stored(directory, split))
        for split in dataset.SPLITS
    }


@pytest.mark.parametrize("pattern", ["^(.*)_", "_v[0-9]+", "(v[0-9]+)_", "^[^_]*_[^_]*"])
def test_frames_of_a_video_stay_on_one_side(tmp_path, pattern):
    folder = write_videos(tmp_path / "folder")
    found = videos_of(folder, prepared(tmp_path / "out", folder, group=pattern, validation=0.2, test=0.2))
    assert all(number == 3 for videos in found.values() for number in videos.values())
    assert sum(map(len, found.values())) == 40
    assert len(found["train"]) == 24


def test_without_a_group_frames_are_torn_apart(tmp_path):
    folder = write_videos(tmp_path / "folder")
    found = videos_of(folder, prepared(tmp_path / "out", folder, validation=0.2, test=0.2))
    assert any(number < 3 for number in found["test"].values())


def test_frames_leave_training_whose_video_the_own_test_split_has(tmp_path, capsys):
    folder = write_videos(tmp_path / "folder" / "train").parent
    for name in ("ant", "bee"):
        (folder / "test" / name).mkdir(parents=True)
        (folder / "train" / name / f"{name}_v07_2.png").rename(folder / "test" / name / f"{name}_v07_2.png")
    found = videos_of(folder, prepared(tmp_path / "out", folder, group="^(.*)_", validation=0.2))
    assert found["test"] == {"ant_v07": 1, "bee_v07": 1}
    assert not found["test"].keys() & (found["train"].keys() | found["validation"].keys())
    assert len(found["train"] + found["validation"]) == 38
    told = f"{folder}, train: left out 4 that a later split has too or has others of their group: "
    assert told in capsys.readouterr().err


def test_group_by_folder(tmp_path):
    for number in range(24):
        path = tmp_path / "folder" / "ab"[number % 2] / f"video{number // 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
    entries_of = source(tmp_path / "folder", skip=False, group="^(.*)/").splits["train"]
    assert {entry.group for entry in entries_of} == {f"video{number}" for number in range(6)}


def test_group_that_matches_no_name_is_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=5, bee=5)
    for pattern in ("^(.*)_", "x*", "(_.*)?png"):
        message = refusal(tmp_path / "out", folder, group=pattern)
        assert message == f"dataset.group is {pattern!r}, which matches no file name of {str(folder)!r}"
    for name in ("mnist5k", "cifar10"):
        message = refusal(tmp_path / "out", name, group="^(.*)_")
        assert message.endswith(f"'^(.*)_', which is about names of files in a folder, but {name!r} is none")


def test_names_that_the_group_does_not_match_are_told(tmp_path, capsys):
    folder = write_videos(tmp_path / "folder")
    noise(9999).save(folder / "ant" / "single.png")
    alone = [entry for entry in source(folder, skip=False, group="^(.*)_").splits["train"] if entry.group is None]
    assert [entry.where for entry in alone] == [str(folder / "ant" / "single.png")]
    assert f"images that dataset.group does not match, each by itself (1): {alone[0].where}" in capsys.readouterr().err


def test_group_of_all_images_leaves_none_to_hold_out(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=9, bee=9)
    told = refusal(tmp_path / "out", folder, group="png$")
    assert "whose 18 images (groups: 1) leave none for validation: a group is in one split" in told


def test_classes_of_one_image_leave_none_to_hold_out_which_is_explained(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=1, bee=1, cow=1)
    assert refusal(tmp_path / "out", folder).endswith(
        "whose 3 images leave none for validation: an image of each class stays in training; give the classes more "
        "images, or raise dataset.validation"
    )
