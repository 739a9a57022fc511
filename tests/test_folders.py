import contextlib
import io
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from preparing import encoded, files, noise, png, prepared, refusal, stored, write_folder

from bitlite.images import dataset
from bitlite.sources.folder import source
from bitlite.workflow.errors import InputError

EXPECTED = "expected is FOLDER/CLASS/image.jpg or FOLDER/{train,validation,test}/CLASS/image.jpg (docs/folders.md)"


def write(root: Path, *places: str, seed: int = 0) -> Path:
    """Images of noise, none like another, at `places`; a place that ends in / has four."""
    for number, place in enumerate(places):
        for path in [f"{place}{index}.png" for index in range(4)] if place.endswith("/") else [place]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            image = noise(seed + 100 * number + int(Path(path).stem) if place.endswith("/") else seed + 100 * number)
            image.save(root / path, "PNG")
    return root


def refused(folder: Path, *, skip: bool = False) -> str:
    """What the refusal of a folder says behind its name."""
    with pytest.raises(InputError) as error:
        source(folder, skip=skip)
    prefix = f"dataset.name is {str(folder)!r}: "
    message = str(error.value)
    assert message.startswith(prefix) and message.isprintable()
    return message.removeprefix(prefix)


def where(folder: Path, *, skip: bool = False) -> dict[str, list[str]]:
    """The images of each split below a folder."""
    splits = source(folder, skip=skip).splits
    return {split: [Path(entry.where).relative_to(folder).as_posix() for entry in splits[split]] for split in splits}


def four(place: str) -> list[str]:
    return [f"{place}{index}.png" for index in range(4)]


# Splits of its own


@pytest.mark.parametrize("name", ["validation", "valid", "val", "Val", "VALID", "dev"])
@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
def test_splits_of_a_folder_are_taken(tmp_path, train, name):
    folder = write(tmp_path, f"{train}/cat/", f"{train}/dog/", f"{name}/cat/", f"{name}/dog/", "Test/cat/", "Test/dog/")
    assert source(folder, skip=False).labels == ("cat", "dog")
    assert where(folder) == {
        "train": four(f"{train}/cat/") + four(f"{train}/dog/"),
        "validation": four(f"{name}/cat/") + four(f"{name}/dog/"),
        "test": four("Test/cat/") + four("Test/dog/"),
    }


def test_prepared_splits_are_those_of_the_folder(tmp_path):
    names = ("train", "valid", "test")
    folder = write(tmp_path / "folder", *(f"{name}/{kind}/" for name in names for kind in ("cat", "dog")))
    directory = prepared(tmp_path / "out", folder)
    for split, name in zip(dataset.SPLITS, names, strict=True):
        expected = [(path.read_bytes(), int(path.parent.name == "dog")) for path in folder.glob(f"{name}/*/*")]
        assert sorted(stored(directory, split)) == sorted(expected)


@pytest.mark.parametrize(
    ("own", "counts"),
    [
        (["test"], {"train": 30, "validation": 10, "test": 8}),
        (["validation"], {"train": 30, "validation": 8, "test": 10}),
        ([], {"train": 20, "validation": 10, "test": 10}),
    ],
)
def test_missing_splits_are_drawn_from_training(tmp_path, own, counts):
    write_folder(tmp_path / "folder/train", cat=20, dog=20)
    for number, split in enumerate(own):
        write_folder(tmp_path / "folder" / split, seed=5000 * (number + 1), cat=4, dog=4)
    directory = prepared(tmp_path / "out", tmp_path / "folder", validation=0.25, test=0.25)
    assert {split: dataset.count(split, directory) for split in dataset.SPLITS} == counts
    for split in own:
        expected = [path.read_bytes() for path in (tmp_path / "folder" / split).rglob("*.png")]
        assert sorted(encoded for encoded, _ in stored(directory, split)) == sorted(expected)


def test_unlabelled_test_images_are_told_and_another_test_split_is_drawn(tmp_path):
    folder = write(tmp_path, "train/cat/", "train/dog/", "test/1.png", "test/2.png")
    assert refused(folder).startswith(
        f"images outside the class folders, {EXPECTED} (2): {folder / 'test/1.png'}, {folder / 'test/2.png'}; mend this"
    )
    assert where(folder, skip=True) == {"train": four("train/cat/") + four("train/dog/")}


def test_image_that_two_splits_have_under_two_classes_is_refused(tmp_path):
    folder = write(tmp_path, "train/cat/", "train/dog/", "test/cat/", "test/dog/")
    shutil.copy(folder / "train/cat/0.png", folder / "test/dog/again.png")
    torn = f"{folder / 'test/dog/again.png'}, {folder / 'train/cat/0.png'}"
    assert f"files whose image stands under another class too (2): {torn}" in refused(folder)


def test_class_may_be_called_train_which_is_told(tmp_path, capsys):
    folder = write(tmp_path, "bus/", "train/", "train/night/")
    assert source(folder, skip=False).labels == ("bus", "train")
    assert capsys.readouterr().err == f"{folder}: classes named as splits (1): {folder / 'train'}\n"
    assert where(folder) == {"train": four("bus/") + four("train/") + four("train/night/")}


def test_class_called_train_may_hold_its_images_in_folders(tmp_path):
    folder = write(tmp_path, "bus/", "train/steam/", "train/diesel/")
    assert source(folder, skip=False).labels == ("bus", "train")


def test_folders_beside_splits_are_refused_or_left_out(tmp_path):
    folder = write(tmp_path, *(f"{split}/{name}/" for split in ("train", "test", "extra") for name in ("cat", "dog")))
    assert refused(folder).startswith(f"folders beside those of the splits (1): {folder / 'extra'}; mend this")
    assert set(where(folder, skip=True)) == {"train", "test"}


def test_one_split_beside_train_makes_it_a_split_whatever_is_beside_them(tmp_path):
    folder = write(tmp_path, "train/cat/", "train/dog/", "test/1.png", "unlabelled/")
    assert where(folder, skip=True) == {"train": four("train/cat/") + four("train/dog/")}
    assert f"folders beside those of the splits (1): {folder / 'unlabelled'}; images outside" in refused(folder)


@pytest.mark.parametrize(
    ("places", "problem"),
    [
        # Kaggle's: images without classes.
        (["train/", "test/"], "folders named as splits, without a train that holds class folders (2): "),
        (["train/cat/", "train/dog/", "val/cat/", "dev/cat/"], "more than one folder for the split validation (2): "),
        (
            ["val/cat/", "val/dog/", "test/cat/", "test/dog/"],
            "folders named as splits, without a train that holds class folders (2): ",
        ),
        (
            ["ant/train/", "ant/val/", "bee/train/", "bee/val/"],
            "split folders inside class folders, which go above them (4): ",
        ),
        (["train/ant/train/", "train/bee/test/"], "split folders inside class folders"),
        (
            ["seg_train/cat/", "seg_train/dog/", "seg_test/cat/", "seg_test/dog/"],
            "folders that look like splits; name them train, ",
        ),
        (["training_set/cat/", "test_set/cat/"], "folders that look like splits; name them train, validation and test"),
        (["train2017/", "val2017/", "annotations/"], "folders that look like splits; name them train, validation and"),
        (["images/", "masks/"], "folders of images and of what is drawn on them, which are no classes (2): "),
        (["Images/", "Annotations/", "other/"], "folders of images and of what is drawn on them, which are no "),
        (
            ["train/images/", "train/labels/", "val/images/"],
            "folders of images and of what is drawn on them, which are",
        ),
    ],
)
def test_layouts_that_mean_something_else_are_refused(tmp_path, places, problem):
    for skip in (False, True):
        message = refused(write(tmp_path, *places), skip=skip)
        assert problem in message and "folders that all hold" not in message


@pytest.mark.parametrize("places", [["train_station/", "test_tube/"], ["masks/", "scarves/"], ["image/", "text/"]])
def test_classes_may_be_named_like_that(tmp_path, places):
    assert len(source(write(tmp_path, *places), skip=False).labels) == 2


# One level too high, one too low


def test_one_class_is_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=3)
    for skip in (False, True):
        assert refused(folder, skip=skip) == (
            f"two or more class folders with images are needed, found: ant; {EXPECTED}"
        )


def test_flat_folder_is_refused_with_the_layout(tmp_path):
    folder = write(tmp_path / "alone" / "folder", "cat.1.png", "dog.1.png")
    paths = f"{folder / 'cat.1.png'}, {folder / 'dog.1.png'}"
    assert refused(folder) == (
        f"images outside the class folders, {EXPECTED} (2): {paths}; "
        f"two or more class folders with images are needed, found: none; {EXPECTED}"
    )


def test_empty_folder_is_refused_with_the_layout(tmp_path):
    assert refused(tmp_path) == f"two or more class folders with images are needed, found: none; {EXPECTED}"


@pytest.mark.parametrize("between", ["flowers", "data/flowers"])
def test_folder_above_the_right_one_is_refused_with_that(tmp_path, between):
    write(tmp_path / between, "rose/", "tulip/")
    found = between.partition("/")[0]
    assert refused(tmp_path).endswith(f"found: {found}; {EXPECTED}; did you mean {tmp_path / between}?")


def test_class_folder_is_refused_with_the_one_above(tmp_path):
    write(tmp_path, "rose/", "tulip/")
    assert refused(tmp_path / "rose").endswith(f"found: none; {EXPECTED}; did you mean {tmp_path}?")


def test_split_alone_tells_of_the_others_beside_it(tmp_path, capsys):
    write(tmp_path, "train/cat/", "train/dog/", "test/cat/", "test/dog/")
    assert set(where(tmp_path / "train")) == {"train"}
    told = f"named as a split, and not used unless dataset.name is {tmp_path} (1): {tmp_path / 'test'}\n"
    assert capsys.readouterr().err == f"{tmp_path / 'train'}: {told}"


@pytest.mark.parametrize(
    "tops",
    [("trainset", "testset"), ("train", "eval"), ("trn", "tst"), ("fold1", "fold2", "fold3"), ("indoor", "outdoor")],
)
def test_folders_that_hold_the_same_folders_are_refused(tmp_path, tops):
    folder = write(tmp_path, *(f"{top}/{name}/" for top in tops for name in ("cat", "dog")), f"{tops[0]}/fox/")
    problem = (
        "folders that all hold the folders cat, dog; if those are the classes, name these train, validation and test"
    )
    for skip in (False, True):
        assert problem in refused(folder, skip=skip)


def test_classes_may_hold_the_same_groups_which_is_told(tmp_path, capsys):
    folder = write(tmp_path, *(f"{name}/patient{number}/" for name in ("cat", "dog") for number in (1, 2)))
    assert source(folder, skip=False, group="^(.*)/").labels == ("cat", "dog")
    told = "taken for classes, though what lies in each may be the classes, patient1, patient2 (2): "
    assert told in capsys.readouterr().err


def test_images_beside_the_classes_of_a_split_are_told_as_such(tmp_path):
    folder = write(tmp_path, *(f"{split}/{name}/" for split in ("train", "val", "test") for name in ("cat", "dog")))
    strays = folder / "test/stray.png", folder / "train/stray.png"
    for number, stray in enumerate(strays):
        noise(9000 + number).save(stray)
    assert refused(folder).startswith(f"images outside the class folders, {EXPECTED} (2): {strays[0]}, {strays[1]}; ")
    assert set(where(folder, skip=True)) == {"train", "validation", "test"}


# Names of classes

CONTROL = "class names with a control character or a line separator"
BLANK = "class names that begin or end with a blank"
UNSEEN = "class names with an invisible character"
TWINS = "class names that differ only in case or in how Unicode spells a letter"


@pytest.mark.parametrize(
    ("names", "problem", "shown"),
    [
        (["a\nb"], CONTROL, r"'a\nb'"),
        (["a\rb"], CONTROL, r"'a\rb'"),
        (["a\x0bb", "a\x1cb"], CONTROL, r"'a\x0bb', 'a\x1cb'"),
        (["a\x85b"], CONTROL, r"'a\x85b'"),
        (["a\u2028b", "a\u2029b"], CONTROL, r"'a\u2028b', 'a\u2029b'"),
        (["a\tb", "a\x1b[31m", "a\x7f"], CONTROL, r"'a\tb', 'a\x1b[31m', 'a\x7f'"),
        ([" "], BLANK, "' '"),
        (["dog "], BLANK, "'dog '"),
        ([" dog"], BLANK, "' dog'"),
        (["dog\u00a0", "\u3000dog"], BLANK, r"'dog\xa0', '\u3000dog'"),
        (["a\u200bb", "\ufeffa"], UNSEEN, r"'a\u200bb', '\ufeffa'"),
        (["a\u202eb", "a\u00adb"], UNSEEN, r"'a\xadb', 'a\u202eb'"),
        (["hot\u00a0dog", "\u3164"], UNSEEN, r"'hot\xa0dog', '\u3164'"),
        (["caf\udce9"], "class names that are not UTF-8", r"'caf\udce9'"),
        (["Cats", "cats"], TWINS, "'Cats', 'cats'"),
        (["Ma\u0308use", "M\u00e4use"], TWINS, r"'Ma\u0308use', 'M\xe4use'"),
        (["MA\u0308USE", "m\u00e4use"], TWINS, r"'MA\u0308USE', 'm\xe4use'"),
        (["\u03c3\u03c2", "\u03a3\u03a3"], TWINS, r"'\u03a3\u03a3', '\u03c3\u03c2'"),
        (["I\u0307", "\u0130", "i\u0307"], TWINS, r"'I\u0307', 'i\u0307', '\u0130'"),
    ],
)
def test_names_that_would_not_come_back_are_refused(tmp_path, names, problem, shown):
    folder = write(tmp_path, "tea/", *(f"{name}/" for name in names))
    for skip in (False, True):
        assert refused(folder, skip=skip) == f"{problem} ({len(names)}): {shown}"


def test_twins_across_splits_are_refused(tmp_path):
    folder = write(tmp_path, "train/Cat/", "train/dog/", "test/cat/", "test/dog/")
    assert f"{TWINS} (2): 'Cat', 'cat'" in refused(folder)


def test_other_names_survive_the_round_trip(tmp_path):
    names = sorted(
        # Full case folding takes some for others; disks do not.
        ["Masse", "Maße", "fix", "ﬁx"]
        + ["a, b", "#1", "Grüße", "'quoted\"", "a  b", "犬\u3000猫", "🐈", "-", "=1+1", "e\u0301te", "null", "1e5"]
    )
    directory = prepared(tmp_path / "out", write(tmp_path / "folder", *(f"{name}/" for name in names)))
    assert dataset.labels(directory) == tuple(names)
    assert (directory / "label.labels.txt").read_bytes().decode().split("\n") == [*names, ""]


# What is no image of the set


def test_what_systems_leave_behind_is_ignored_without_a_word(tmp_path, capsys):
    folder = write_folder(tmp_path / "folder", ant=8, bee=8)
    expected = files(prepared(tmp_path / "without", folder, validation=0.3, test=0.3))
    told = capsys.readouterr().err
    thumbnail = png(noise(7777))
    for name in (
        "Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", ".ipynb_checkpoints/0.png", ".thumbnails/x.png", "Icon\r",
        "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/x.png", "$RECYCLE.BIN/x.png", "System Volume Information/x.png",
        "lost+found/x.png", "__MACOSX/._0.jpg", "@Recycle/x.png", "0.png:Zone.Identifier",
    ):  # fmt: skip
        for place in (folder, folder / "ant"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(thumbnail)
    assert files(prepared(tmp_path / "with", folder, validation=0.3, test=0.3)) == expected
    assert capsys.readouterr().err == told


def test_files_beside_images_are_told_once_by_kind(tmp_path, capsys):
    folder = write(tmp_path / "folder", "ant/", "bee/")
    for index in range(4):
        for ending in (".json", ".xmp", ".png.xmp", ".MOV"):
            (folder / "ant" / f"{index}{ending}").write_bytes(b"\0\0\0\x14ftypqt  ")
    for name in ("README", "ant/labels.csv"):
        (folder / name).write_text("about")
    assert len(source(folder, skip=False).splits["train"]) == 8
    kinds = "1 .csv, 4 .json, 4 .mov, 8 .xmp, 1 without a suffix"
    assert capsys.readouterr().err == f"{folder}: kinds of files that are no images, left out (5): {kinds}\n"


def test_raw_files_and_heic_beside_a_jpeg_are_companions_and_else_problems(tmp_path, capsys):
    folder = write(tmp_path / "folder", "ant/", "bee/")
    for name in ("ant/0.NEF", "ant/1.dng", "ant/2.HEIC"):
        (folder / name).write_bytes(encoded(noise(0), "TIFF"))
    assert len(source(folder, skip=False).splits["train"]) == 8
    told = f"{folder}: kinds of files named as an image beside them, left out (3): 1 .dng, 1 .heic, 1 .nef\n"
    assert capsys.readouterr().err == told
    for name in ("bee/9.NEF", "bee/9.dng"):
        (folder / name).write_bytes(encoded(noise(0), "TIFF"))
    assert refused(folder).startswith(
        "files that can't be read as images, raw files of cameras, to be exported as JPEG (2): "
        f"{folder / 'bee/9.NEF'}, {folder / 'bee/9.dng'}; mend this"
    )


def test_images_are_known_by_their_first_bytes_whatever_their_names(tmp_path):
    folder = write(tmp_path / "folder", "ant/", "bee/")
    for number, (name, kind) in enumerate(
        {
            "photo": "JPEG",
            "photo.2024": "PNG",
            "photo.jpg_large": "WEBP",
            "photo.dat": "GIF",
            "photo.bak": "BMP",
        }.items()
    ):
        (folder / "ant" / name).write_bytes(encoded(noise(5000 + number), kind))
    assert len(source(folder, skip=False).splits["train"]) == 13


def test_formats_that_readme_does_not_name_are_not_decoded(tmp_path):
    folder = write(tmp_path / "folder", "ant/", "bee/")
    for number, (name, kind) in enumerate({"a.ppm": "PPM", "b.ico": "ICO", "c.png": "TGA"}.items()):
        (folder / "ant" / name).write_bytes(encoded(noise(5000 + number, 16, 16), kind))
    paths = ", ".join(str(folder / "ant" / name) for name in ("a.ppm", "b.ico", "c.png"))
    assert f"files that can't be read as images, none of JPEG, PNG, BMP, WEBP, GIF, TIFF (3): {paths}" in refused(
        folder
    )


# Nothing vanishes


def test_linked_folders_are_followed(tmp_path):
    folder = write(tmp_path / "folder", "ant/", "bee/")
    write(tmp_path / "elsewhere", "more/", "class/", seed=5000)
    (folder / "ant" / "batch").symlink_to(tmp_path / "elsewhere/more")
    (folder / "cow").symlink_to(tmp_path / "elsewhere/class", target_is_directory=True)
    (folder / "bee" / "x.png").symlink_to(folder / "bee/0.png")
    assert source(folder, skip=False).labels == ("ant", "bee", "cow")
    expected = four("ant/") + four("ant/batch/") + [*four("bee/"), "bee/x.png"] + four("cow/")
    assert where(folder) == {"train": expected}


def test_links_in_a_loop_are_told_and_followed_once(tmp_path, capsys):
    folder = write(tmp_path / "folder", "ant/", "ant/deep/", "bee/")
    loops = {"ant/deep/up": "ant", "ant/root": ".", "ant/above": "..", "ant/here": "ant/deep", "bee/self": "bee"}
    for place, target in loops.items():
        (folder / place).symlink_to(folder / target)
    assert where(folder) == {"train": four("ant/") + four("ant/deep/") + four("bee/")}
    told = ", ".join(str(folder / place) for place in ("ant/above", "ant/deep/up", "ant/here", "ant/root", "bee/self"))
    assert f"links to folders that are read already (5): {told}\n" in capsys.readouterr().err


def test_links_to_nothing_are_told(tmp_path):
    folder = write(tmp_path / "folder", "ant/", "bee/")
    for place in ("ant/a.png", "ant/batch", "c.png"):
        (folder / place).symlink_to(tmp_path / "gone")
    (folder / "ant" / "loop.png").symlink_to(folder / "ant" / "loop.png")
    links = ", ".join(str(folder / place) for place in ("c.png", "ant/a.png", "ant/batch"))
    message = refused(folder)
    assert f"links to nothing (3): {links}" in message
    assert f"paths that can't be reached, Too many levels of symbolic links (1): {folder / 'ant/loop.png'}" in message
    assert len(where(folder, skip=True)["train"]) == 8


def test_pipes_and_sockets_are_told_and_not_waited_for(tmp_path):
    folder = write(tmp_path / "folder", "ant/", "bee/")
    os.mkfifo(folder / "ant" / "pipe.png")
    assert f"neither files nor folders (1): {folder / 'ant/pipe.png'}" in refused(folder)


def test_images_beside_class_folders_are_told_with_the_layout(tmp_path):
    folder = write(tmp_path / "folder", "ant/", "bee/", "cat.1.png")
    assert refused(folder) == (
        f"images outside the class folders, {EXPECTED} (1): {folder / 'cat.1.png'}; "
        "mend this, or leave it out by dataset.on_error: skip"
    )
    assert len(where(folder, skip=True)["train"]) == 8


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """To be nobody in particular, even for root, who may read all."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_files_and_folders_that_may_not_be_read_are_told():
    with tempfile.TemporaryDirectory() as directory:
        folder = write(Path(directory), "ant/", "ant/deep/", "bee/", "cow/")
        os.chmod(folder, 0o755)
        closed = [folder / "ant/0.png", folder / "ant/deep", folder / "cow"]
        for path in closed:
            path.chmod(0)
        try:
            with unprivileged():
                message = refused(folder)
                left = where(folder, skip=True)
        finally:
            for path in closed:
                path.chmod(0o755)
    assert f"folders that can't be listed, Permission denied (2): {folder / 'ant/deep'}, {folder / 'cow'}" in message
    assert f"files that can't be read as images, Permission denied (1): {folder / 'ant/0.png'}" in message
    assert left == {"train": four("ant/")[1:] + four("bee/")}


def test_folder_that_may_not_be_listed_is_told_in_one_line():
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0)
        with unprivileged():
            assert refused(Path(directory)).startswith(
                f"folders that can't be listed, Permission denied (1): {directory}; two or more class folders"
            )


def huge_gif() -> bytes:
    """A GIF that claims to be of 60,000 x 60,000 pixels."""
    content = encoded(noise(0), "GIF")
    return content[:6] + struct.pack("<HH", 60_000, 60_000) + content[10:]


def large_png() -> bytes:
    """A PNG of 400 megapixels."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


REASONS = {
    "text": (b"no image", "none of JPEG, PNG, BMP, WEBP, GIF, TIFF"),
    "empty": (b"", "empty"),
    "zeros": (bytes(5000), "nothing but zeros, as a broken copy leaves them"),
    "truncated PNG": (png(noise(0))[:200], "truncated"),
    "truncated JPEG": (encoded(noise(0, 90, 90), "JPEG")[:2000], "truncated"),
    "truncated WebP": (encoded(noise(0, 90, 90), "WEBP")[:2000], "truncated"),
    "truncated GIF": (encoded(noise(0, 90, 90), "GIF")[:2000], "truncated"),
    "truncated BMP": (encoded(noise(0, 90, 90), "BMP")[:2000], "truncated"),
    "without pixels": (png(noise(0)).replace(b"IDAT", b"IDAX"), "damaged"),
    "large GIF": (huge_gif(), "more than 179 megapixels, to be made smaller"),
    "large PNG": (large_png(), "more than 179 megapixels, to be made smaller"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC, as phones take photos, to be converted to JPEG"),
    "HEIC as mif1": (b"\0\0\0\x24ftypmif1" + bytes(99), "HEIC, as phones take photos, to be converted to JPEG"),
    "AVIF": (b"\0\0\0\x20ftypavif" + bytes(99), "AVIF, to be converted to JPEG or PNG"),
    "JPEG XL": (b"\xff\x0a" + bytes(99), "JPEG XL, to be converted to JPEG or PNG"),
    "video": (b"\0\0\0\x20ftypisom" + bytes(99), "videos"),
    "web page": (b"<!DOCTYPE html><html>not found</html>", "web pages, as failed downloads leave them"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG, to be exported as PNG"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "pointers of Git LFS, to be fetched by `git lfs pull`"),
    "AppleDouble": (b"\0\x05\x16\x07" + bytes(99), "AppleDouble files, which a Mac puts beside its own"),
    "PDF": (b"%PDF-1.7\n", "PDF, to be exported as PNG"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_unreadable_file_is_named_with_the_reason_before_anything_is_written(tmp_path, kind):
    content, reason = REASONS[kind]
    folder = write_folder(tmp_path / "folder", ant=3, bee=3)
    path = folder / "bee" / "bad.jpg"
    path.write_bytes(content)
    problem = f"files that can't be read as images, {reason} (1): {path};"
    assert problem in refusal(tmp_path / "out", folder)


def test_each_reason_is_counted(tmp_path):
    folder = write(tmp_path, "ant/", "bee/")
    for number in range(12):
        (folder / "ant" / f"phone{number:02}.jpg").write_bytes(REASONS["HEIC"][0])
    (folder / "ant" / "z1.jpg").write_bytes(encoded(noise(1, 90, 90), "JPEG")[:1000])
    (folder / "ant" / "z2.jpg").write_bytes(encoded(noise(2, 90, 90), "JPEG")[:2000])
    message = refused(folder)
    assert "HEIC, as phones take photos, to be converted to JPEG (12): " in message
    assert f"truncated (2): {folder / 'ant/z1.jpg'}, {folder / 'ant/z2.jpg'}" in message


# The report


@pytest.fixture
def faulty(tmp_path):
    """A folder with one problem of each kind that can be left out."""
    folder = write_folder(tmp_path / "faulty", ant=12, ape=0, bee=12, dog=1)
    (folder / "ant" / "notes.png").write_text("no image")
    for wrong in ("bee/00.png", "bee/again.png", "dog/0.png"):
        shutil.copy(folder / "ant" / "0.png", folder / wrong)
    return folder


def test_all_problems_of_a_folder_are_told_at_once(faulty, tmp_path):
    (faulty / "Bee").mkdir()
    torn = [faulty / path for path in ("ant/0.png", "bee/00.png", "bee/again.png", "dog/0.png")]
    assert refusal(tmp_path / "out", faulty) == (
        f"dataset.name is {str(faulty)!r}: "
        "files that can't be read as images, none of JPEG, PNG, BMP, WEBP, GIF, TIFF (1): "
        f"{faulty / 'ant' / 'notes.png'}; "
        f"files whose image stands under another class too (4): {', '.join(map(str, torn))}; "
        f"class folders without a usable image (3): {faulty / 'Bee'}, {faulty / 'ape'}, {faulty / 'dog'}; "
        f"{TWINS} (2): 'Bee', 'bee'"
    )


def test_ten_paths_of_a_problem_are_listed_and_the_others_counted(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=3, bee=3)
    for index in range(13):
        (folder / "ant" / f"bad{index:02}.png").write_bytes(b"")
    listed = ", ".join(str(folder / "ant" / f"bad{index:02}.png") for index in range(10))
    assert f"(13): {listed}, and 3 more; mend this, or leave it out by dataset.on_error: skip" in refusal(
        tmp_path / "out", folder
    )


def test_file_names_that_can_t_be_printed_are_escaped(tmp_path):
    folder = write_folder(tmp_path / "folder", ant=3, bee=3)
    (folder / "ant" / "a\nb\udce9.png").write_bytes(b"")
    assert refused(folder).startswith(
        f"files that can't be read as images, empty (1): {folder}/ant/a\\nb\\udce9.png; mend this"
    )


def test_problems_are_left_out_and_printed_when_that_is_asked_for(faulty, tmp_path, capsys):
    directory = prepared(tmp_path / "out", faulty, on_error="skip", validation=0.3, test=0.3)
    assert dataset.labels(directory) == ("ant", "bee")
    found = [example for split in dataset.SPLITS for example in stored(directory, split)]
    left = [(faulty / "ant" / f"{index}.png", 0) for index in range(1, 12)]
    left += [(faulty / "bee" / f"{index}.png", 1) for index in range(12)]
    assert sorted(found) == sorted((path.read_bytes(), label) for path, label in left)
    told = capsys.readouterr().err.splitlines()
    assert f"{faulty}: left out class folders without a usable image (2): {faulty / 'ape'}, {faulty / 'dog'}" in told
    assert sum(line.startswith(f"{faulty}: left out") for line in told) == 3


# The folder's own name


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "photos", ant=8, bee=8)
    assert dataset.labels(prepared(tmp_path / "out", "~/photos")) == ("ant", "bee")
    assert refusal(tmp_path / "none", "~nobody-of-this-name/photos").startswith(
        "dataset.name is '~nobody-of-this-name/photos': "
    )


def test_experiments_find_a_folder_of_their_project(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").touch()
    write_folder(tmp_path / "photos", ant=8, bee=8)
    experiment = tmp_path / ".dvc/tmp/exps/tmpabcd"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    assert dataset.labels(prepared(tmp_path / "out", "photos")) == ("ant", "bee")


def test_name_that_can_t_be_looked_up_is_told_in_one_line(tmp_path):
    name = "a" * 300
    assert refusal(tmp_path / "out", name) == f"dataset.name is {name!r}: File name too long"
    assert refusal(tmp_path / "out", "a\0b") == r"dataset.name is 'a\x00b': embedded null byte"


def test_file_is_refused_with_the_layout(tmp_path):
    path = tmp_path / "photos.zip"
    path.write_bytes(b"PK\x03\x04")
    assert refusal(tmp_path / "out", path) == f"dataset.name is {str(path)!r}, which is a file; {EXPECTED}"


def test_no_path_of_the_folder_is_in_the_data_set(tmp_path):
    folder = write_folder(tmp_path / "private-7391" / "photos", ant=8, bee=8)
    # One that is written anew: it is transparent.
    noise(99).convert("RGBA").save(folder / "ant" / "clear.png")
    for name, content in files(prepared(tmp_path / "out", folder)).items():
        assert b"private-7391" not in content and b"photos" not in content, name


def test_control_characters_of_a_folder_s_name_do_not_reach_the_console(tmp_path, capsys):
    folder = write_folder(tmp_path / "a\x1b[2Jb\nc", ant=8, bee=8)
    (folder / "ant" / "n\x1b[2J.txt").touch()
    shutil.copy(folder / "ant" / "0.png", folder / "ant" / "copy\x1b[2J.png")
    prepared(tmp_path / "out", folder)
    told = capsys.readouterr().err
    assert told.count("a\\x1b[2Jb\\nc") >= 2 and "copies" in told
    assert "\x1b" not in told and all(line.isprintable() for line in told.splitlines())
