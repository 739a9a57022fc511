"""Folders of images whose pixels are not plain RGB of 8 bits, and what finds copies among them."""

import re
from collections import Counter

import numpy as np
import pytest
from picture_files import png_chunk, png_file, tiff_file
from PIL import Image
from preparing import encoded, noise, prepared, refusal, stored, write_folder

from bitlite.images import dataset, decoding
from bitlite.sources import likeness
from bitlite.sources.inspection import in_parallel, inspect
from bitlite.sources.source import Entry
from bitlite.workflow.cores import cores

SPLIT = {"validation": 0.3, "test": 0.3}


def write(folder, content_of, classes=("ant", "bee"), each=10, suffix="png"):
    """A folder of files; `content_of` a number, other for each, gives a file's content."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            (folder / name / f"{index}.{suffix}").write_bytes(content_of(100 * label + index))
    return folder


def read_all(directory, size=(16, 16)) -> np.ndarray:
    """All images of a data set that have this size, in any order."""
    return np.concatenate([dataset.read(split, size, directory)[0][:] for split in dataset.SPLITS]).astype(int)


def in_order(images) -> np.ndarray:
    return np.array(sorted(np.asarray(image).tolist() for image in images))


def values(seed: int, high: int) -> np.ndarray:
    found = np.random.default_rng(seed).integers(high, endpoint=True, size=(16, 16)).astype(np.uint16)
    found.flat[:2] = 0, high
    return found


def as_levels(found: np.ndarray, high: int) -> np.ndarray:
    return np.stack([np.rint(found * (255 / high))] * 3, axis=-1).astype(int)


def test_12_bits_in_16_are_prepared_as_12(tmp_path, capsys):
    folder = write(tmp_path / "folder", lambda seed: png_file(values(seed, 4095), bits=16, color=0))
    images = read_all(prepared(tmp_path / "out", folder, **SPLIT))
    expected = [as_levels(values(seed, 4095), 4095) for seed in (*range(10), *range(100, 110))]
    np.testing.assert_array_equal(in_order(images), in_order(expected))
    assert f"{folder}: images of uint16 samples, in which 0..4095 is shown as black to white (20): " in (
        capsys.readouterr().err
    )


def test_floats_are_prepared_as_they_are_meant(tmp_path):
    def fraction(seed: int) -> np.ndarray:
        return (values(seed, 1000) / 1000).astype(np.float32)

    folder = write(tmp_path / "folder", lambda seed: tiff_file(fraction(seed)), suffix="tif")
    images = read_all(prepared(tmp_path / "out", folder, **SPLIT))
    expected = [as_levels(values(seed, 1000), 1000) for seed in (*range(10), *range(100, 110))]
    assert np.abs(in_order(images) - in_order(expected)).max() <= 1


def test_images_that_would_be_all_but_black_are_refused(tmp_path):
    """12 bits beside 16 in one set: no range shows both."""

    def content(seed: int) -> bytes:
        return png_file(values(seed, 3000 if seed == 3 else 65535), bits=16, color=0)

    folder = write(tmp_path / "folder", content)
    reason = "all but black: they use less than a 16th of 0..65535, the range of the set's uint16 samples"
    assert f"can't be read as images, {reason} (1): {folder / 'ant' / '3.png'}" in refusal(tmp_path / "out", folder)
    directory = prepared(tmp_path / "out", folder, on_error="skip", **SPLIT)
    assert sum(dataset.count(split, directory) for split in dataset.SPLITS) == 19


@pytest.mark.parametrize(
    "content",
    [
        lambda dim: png_file(dim, bits=16, color=0, before=png_chunk(b"sBIT", b"\x10")),
        lambda dim: tiff_file(dim, {280: (3, [0]), 281: (3, [65535])}),
    ],
    ids=["sBIT", "MaxSampleValue"],
)
def test_a_declared_range_in_which_images_are_all_but_black_is_refused(tmp_path, content):
    folder = write(tmp_path / "folder", lambda seed: content(values(seed, 4000)))
    reason = (
        "all but black: they use less than a 16th of 0..65535, the range that their files give, by sBIT or tags of TIFF"
    )
    assert f"can't be read as images, {reason} (20): " in refusal(tmp_path / "out", folder)


def test_hot_pixels_hide_no_image_that_would_be_all_but_black(tmp_path):
    def content(seed: int) -> bytes:
        found = values(seed, 4095)
        found[3, 4] = 65535
        return png_file(found, bits=16, color=0)

    message = refusal(tmp_path / "out", write(tmp_path / "folder", content))
    assert "all but black: they use less than a 16th of 0..65535, the range of the set's uint16 samples (20)" in message


def test_a_set_of_one_value_is_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=5, bee=5)
    (folder / "ant" / "black.png").write_bytes(png_file(np.zeros((16, 16), int), bits=16, color=0))
    message = refusal(tmp_path / "out", folder)
    assert f"all uint16 samples of the set are 0 (1): {folder / 'ant' / 'black.png'}" in message


def test_declared_ranges_need_no_set(tmp_path):
    """Of 500 at most, which would be 9 bits."""
    declared = png_chunk(b"sBIT", b"\x0c")
    folder = write(tmp_path / "folder", lambda seed: png_file(values(seed, 500), bits=16, color=0, before=declared))
    images = read_all(prepared(tmp_path / "out", folder, **SPLIT))
    assert images.max() == np.rint(500 * 255 / 4095)


def drawn(seed: int, colour=(0, 0, 0, 255)) -> Image.Image:
    """A square on transparent ground."""
    image = Image.new("RGBA", (64, 64))
    image.paste(colour, (seed % 40, seed // 40, seed % 40 + 20, seed // 40 + 20))
    return image


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("#808080", 128)])
def test_shapes_on_transparent_ground_are_seen(tmp_path, background, level):
    folder = write(tmp_path / "folder", lambda seed: encoded(drawn(seed), "PNG"))
    images = read_all(prepared(tmp_path / "out", folder, background=background, **SPLIT), (64, 64))
    assert len(images) == 20
    for image in images:
        assert Counter(image[..., 0].flat) == {0: 400, level: 64 * 64 - 400}


def test_white_shapes_are_told_apart_on_black(tmp_path):
    """On white they are all the same image, and so copies of each other under two classes."""
    folder = write(tmp_path / "folder", lambda seed: encoded(drawn(seed, (255,) * 4), "PNG"))
    told = "under another class too, transparent ones laid on dataset.background, white (20): "
    assert told in refusal(tmp_path / "out", folder)
    prepared(tmp_path / "out", folder, background="black", **SPLIT)


def test_broken_exif_is_no_problem_of_a_folder(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=6, bee=6)
    noise(7000).save(folder / "ant" / "x.jpg", exif=b"Exif\0\0garbage!", dpi=(72, 72))
    noise(7001).save(folder / "bee" / "x.webp", exif=b"garbage", lossless=True)
    images = read_all(prepared(tmp_path / "out", folder, **SPLIT), (9, 12))
    assert len(images) == 14
    assert np.asarray(noise(7001), int).tolist() in images.tolist()


# Photos


def photo(seed: int, width=600, height=400) -> Image.Image:
    small = np.random.default_rng(seed).integers(256, size=(4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def phone_photo(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = 6
    mode, kind = [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "MPO")][seed % 4]
    return encoded(photo(seed).convert(mode), kind, quality=90, exif=exif)


def test_photos_keep_their_bytes_and_are_decoded_once(tmp_path, monkeypatch):
    folder = write(tmp_path / "folder", phone_photo, suffix="jpg")
    opened = []
    monkeypatch.setattr(Image, "open", lambda file, *a, open=Image.open, **k: opened.append(1) or open(file, *a, **k))
    directory = prepared(tmp_path / "out", folder, **SPLIT)
    assert len(opened) == 20
    monkeypatch.undo()
    found = sorted(content for split in dataset.SPLITS for content, _ in stored(directory, split))
    assert found == sorted(path.read_bytes() for path in folder.rglob("*.jpg"))
    size = sum(path.stat().st_size for path in directory.iterdir())
    assert size < 1.2 * sum(map(len, found))


def test_photos_are_read_upright(tmp_path):
    folder = write(tmp_path / "folder", phone_photo, suffix="jpg")
    images = read_all(prepared(tmp_path / "out", folder, **SPLIT), (600, 400))
    # EXIF 6: what is stored is shown turned clockwise.
    upright = {}
    for seed in (*range(10), *range(100, 110)):
        turned = np.rot90(np.asarray(photo(seed)), -1).astype(int)
        upright[seed] = turned if seed % 4 != 1 else np.asarray(Image.fromarray(turned.astype(np.uint8)).convert("L"))
    for seed, expected in upright.items():
        expected = expected if expected.ndim == 3 else np.stack([expected] * 3, axis=-1)
        assert min(np.abs(image - expected).mean() for image in images) < (8 if seed % 4 == 2 else 3)


# Copies


def test_a_picture_encoded_anew_shares_its_split(tmp_path, capsys):
    folder = tmp_path / "folder"
    for label, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            image, path = noise(1000 * label + index), folder / name / str(index)
            image.save(f"{path}.png")
            image.save(f"{path}.webp", lossless=True)
            image.save(f"{path}.bmp")
            image.save(f"{path}b.png", compress_level=0)
            exif = Image.Exif()
            exif[0x112] = 8
            image.transpose(Image.Transpose.ROTATE_270).save(f"{path}c.png", exif=exif)
    directory = prepared(tmp_path / "out", folder, **SPLIT)
    assert f"{folder}: 100 images, 80 copies of others: " in capsys.readouterr().err
    counts = [Counter(image.tobytes() for image in dataset.read(s, (9, 12), directory)[0]) for s in dataset.SPLITS]
    assert [len(count) for count in counts] == [8, 6, 6]
    assert sum(counts, Counter()) == Counter({key: 5 for count in counts for key in count})


def test_a_copy_encoded_anew_under_another_class_is_told(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=5, bee=5)
    Image.open(folder / "ant" / "2.png").save(folder / "bee" / "x.webp", lossless=True)
    assert f"under another class too (2): {folder / 'ant' / '2.png'}, {folder / 'bee' / 'x.webp'}" in (
        refusal(tmp_path / "out", folder)
    )


def test_copies_of_8_and_16_bits_share_a_split(tmp_path, capsys):
    folder = tmp_path / "folder"
    write(folder, lambda seed: png_file(values(seed, 255), bits=8, color=0))
    for path in folder.rglob("*.png"):
        deep = np.asarray(Image.open(path)).astype(np.uint16) * 257
        (path.parent / f"{path.stem}w.png").write_bytes(png_file(deep, bits=16, color=0))
    directory = prepared(tmp_path / "out", folder, **SPLIT)
    assert f"{folder}: 40 images, 20 copies of others: " in capsys.readouterr().err
    counts = [Counter(image.tobytes() for image in dataset.read(s, (16, 16), directory)[0]) for s in dataset.SPLITS]
    assert [len(count) for count in counts] == [8, 6, 6]
    assert all(set(count.values()) == {2} for count in counts)


def test_splits_do_not_depend_on_how_images_are_encoded(tmp_path):
    def split_of(folder) -> dict:
        directory = prepared(tmp_path / f"{folder.name} prepared", folder, **SPLIT)
        return {image.tobytes(): s for s in dataset.SPLITS for image in dataset.read(s, (9, 12), directory)[0]}

    folder = write_folder(tmp_path / "folder", ant=20, bee=20)
    anew = tmp_path / "anew"
    for path in folder.rglob("*.png"):
        other = anew / path.parent.name / f"{path.stem}.webp"
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(other, lossless=True)
    assert split_of(anew) == split_of(folder)


def large(seed: int, spot: int | None = None) -> bytes:
    """A PNG of 700 x 500; with `spot`, one of its pixels is changed by one level."""
    pixels = np.asarray(photo(seed, 700, 500)).copy()
    if spot is not None:
        pixels[1, spot] ^= 1
    return encoded(Image.fromarray(pixels), "PNG", compress_level=1)


def test_large_images_that_differ_in_one_pixel_are_not_copies(tmp_path, capsys):
    folder = write(tmp_path / "folder", large, each=6)
    for spot in range(1, 4):
        (folder / "ant" / f"spot{spot}.png").write_bytes(large(0, spot))
    (folder / "ant" / "copy.webp").write_bytes(encoded(Image.open(folder / "ant" / "0.png"), "WEBP", lossless=True))
    prepared(tmp_path / "out", folder, **SPLIT)
    assert f"{folder}: 16 images, 1 copies of others: {folder / 'ant' / 'copy.webp'}\n" in capsys.readouterr().err


def test_a_copy_of_a_large_image_does_not_change_the_order_by_which_splits_are_drawn():
    contents = [large(seed) for seed in range(6)]

    def digests(*numbers: int) -> dict:
        return inspect(lambda only: ((n, lambda n=n: contents[n % 6]) for n in only or numbers)).digests

    alone = digests(*range(6))
    for number in range(6):
        copied = digests(*range(6), number + 6)
        assert copied[number] == copied.pop(number + 6)
        assert sorted(copied, key=copied.get) == sorted(alone, key=alone.get)


def test_files_of_several_images_are_told_and_their_first_one_is_used(tmp_path, capsys):
    def content(seed: int) -> bytes:
        kind = ("TIFF", "GIF", "WEBP", "PNG", "MPO", "PNG")[seed % 6]
        images = [noise(10 * seed + number, 16, 16) for number in range(3)]
        others = images[1:] if seed % 6 < 5 else []
        return encoded(images[0], kind, **({"save_all": True, "append_images": others} if others else {}))

    folder = write(tmp_path / "folder", content, each=6, classes=("ant", "bee"))
    images = read_all(prepared(tmp_path / "out", folder, **SPLIT))
    assert len(images) == 12
    told = [folder / name / f"{seed}.png" for label, name in enumerate(("ant", "bee")) for seed in range(6)
            if (100 * label + seed) % 6 < 4]  # fmt: skip
    assert f"{folder}: files of several images, of which the first is used (8): {', '.join(map(str, told))}\n" in (
        capsys.readouterr().err
    )


# Likeness


def test_thumbnails_and_jpegs_encoded_anew_are_told_across_splits_and_classes(tmp_path, capsys):
    folder = tmp_path / "folder"
    for split, first in (("train", 0), ("test", 10)):
        write(folder / split, lambda seed, first=first: encoded(photo(seed + first), "PNG"), each=6)
    ant, bee, own = (
        folder / "test" / "ant" / "0.png",
        folder / "test" / "bee" / "1.png",
        folder / "test" / "ant" / "2.png",
    )
    thumbnail, again, torn = (folder / path for path in ("train/ant/small.png", "train/bee/b.jpg", "test/bee/c.webp"))
    Image.open(ant).resize((75, 50), Image.Resampling.LANCZOS).save(thumbnail)
    Image.open(bee).save(again, quality=40)
    Image.open(own).resize((200, 133)).save(torn, quality=60)
    prepared(tmp_path / "out", folder, validation=0.2)
    told = dict(re.findall(r"images in different (\w+) that look alike.*? do: (.*)", capsys.readouterr().err))
    pairs = {kind: {frozenset(pair.split(" and ")) for pair in pairs.split(", ")} for kind, pairs in told.items()}
    assert pairs == {
        "splits": {frozenset(map(str, pair)) for pair in ((ant, thumbnail), (bee, again))},
        "classes": {frozenset(map(str, (own, torn)))},
    }


def test_a_scan_of_16_bits_is_told_to_look_like_its_jpeg(tmp_path, capsys):
    for split, first in (("train", 0), ("test", 10)):
        write(tmp_path / split, lambda seed, first=first: encoded(photo(seed + first), "PNG"), each=4)
    deep, again = tmp_path / "train" / "ant" / "scan.tif", tmp_path / "test" / "ant" / "scan.jpg"
    grey = photo(50).convert("L")
    deep.write_bytes(tiff_file(np.asarray(grey).astype(np.uint16) * 257))
    grey.save(again, quality=90)
    prepared(tmp_path / "out", tmp_path, validation=0.2)
    assert re.search(f"1 pairs of images in different splits.*: {again} and {deep}\n", capsys.readouterr().err)


def alike(*looks: int, splits=("train", "test")) -> list[tuple[int, int]]:
    entries = [Entry(number, 0, bytes([number]), look=look) for number, look in enumerate(looks)]
    by_split = {split: entries[place :: len(splits)] for place, split in enumerate(splits)}
    return sorted(tuple(sorted((one.where, other.where))) for (_, one), (_, other) in likeness.alike(by_split))


def test_looks_that_differ_in_few_bits_anywhere_are_alike():
    random = np.random.default_rng(0)
    for _ in range(50):
        look = int(random.integers(2**63))
        flips = [1 << int(bit) for bit in random.choice(64, 5, replace=False)]
        assert alike(look, look) == [(0, 1)]
        assert alike(look, look ^ sum(flips[:4])) == [(0, 1)]
        assert alike(look, look ^ sum(flips)) == []
    assert alike(1, 3, splits=("train",)) == []


def test_all_pairs_of_looks_are_found():
    random = np.random.default_rng(1)
    looks = [int(look) for look in random.integers(2**12, size=300)]
    first = {look: number for number, look in reversed(list(enumerate(looks)))}
    expected = {
        tuple(sorted((number, other)))
        for look, number in first.items()
        for another, other in first.items()
        if look < another and (look ^ another).bit_count() <= 4
    }
    entries = [Entry(number, number, number.to_bytes(2, "big"), look=look) for look, number in first.items()]
    found = [(one.where, other.where) for (_, one), (_, other) in likeness.alike({"train": entries})]
    assert len(found) == len(expected) and {tuple(sorted(pair)) for pair in found} == expected


def test_look_of_a_flat_image_has_the_lowest_frequency_alone():
    """That it has no other is a matter of rounding in floats, and so of the machine."""
    for level in (1, 100, 255):
        assert decoding.see(encoded(Image.new("L", (64, 64), level), "PNG")).look == 1 << 63


def test_copies_and_small_images_are_not_told_as_alike(tmp_path, capsys):
    folder = write_folder(tmp_path / "folder", ant=30, bee=30)
    prepared(tmp_path / "out", folder, **SPLIT)
    assert "look alike" not in capsys.readouterr().err
    assert decoding.see(encoded(photo(1, 47, 47), "PNG")).look is None
    assert decoding.see(encoded(photo(1, 48, 48), "PNG")).look is not None


# Threads


def test_in_parallel_keeps_order_and_takes_few_items_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_parallel(lambda number: number * number, items())
    assert next(results) == 0
    assert len(taken) <= 2 * cores() + 1
    assert [0, *results] == [number * number for number in range(1000)]
