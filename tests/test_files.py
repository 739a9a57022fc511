import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from bitlite.workflow.errors import InputError
from bitlite.workflow.files import (
    COUNT,
    SHARE,
    or_nothing,
    read_csv,
    read_npz,
    remove,
    whole,
    write_bytes,
    write_csv,
    write_json,
)

ROOT = Path(__file__).parents[1]


def write_file(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def write_directory(path: Path, content: str) -> None:
    write_file(path / "below" / content, content)


def tree(directory: Path) -> dict[str, str | None]:
    """All that lies in `directory`, hidden entries too: text of files, None for directories."""
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else None for path in directory.rglob("*")
    }


@pytest.fixture
def expected(tmp_path_factory, write):
    """The tree of a directory whose one entry `out` was written in peace."""

    def tree_of(content):
        directory = tmp_path_factory.mktemp("expected")
        write(directory / "out", content)
        return tree(directory)

    return tree_of


WRITERS = pytest.mark.parametrize("write", [write_file, write_directory])


@WRITERS
def test_success_makes_the_path_and_its_parents(tmp_path, write, expected):
    with whole(tmp_path / "a" / "b" / "out") as temporary:
        write(temporary, "new")
        assert not (tmp_path / "a" / "b" / "out").exists()
    assert tree(tmp_path / "a" / "b") == expected("new")


@WRITERS
def test_success_replaces_all_of_the_old(tmp_path, write, expected):
    write(tmp_path / "out", "old")
    with whole(tmp_path / "out") as temporary:
        write(temporary, "new")
    assert tree(tmp_path) == expected("new")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@WRITERS
def test_exception_leaves_the_old_and_no_litter(tmp_path, write, error, expected):
    write(tmp_path / "out", "old")
    with pytest.raises(error), whole(tmp_path / "out") as temporary:
        write(temporary, "half")
        raise error
    assert tree(tmp_path) == expected("old")


@WRITERS
def test_exception_before_the_first_output_leaves_nothing(tmp_path, write):
    with pytest.raises(ValueError), whole(tmp_path / "out") as temporary:
        write(temporary, "half")
        raise ValueError
    assert tree(tmp_path) == {}


@WRITERS
def test_block_that_writes_nothing_leaves_the_old(tmp_path, write, expected):
    write(tmp_path / "out", "old")
    with pytest.raises(OSError), whole(tmp_path / "out"):
        pass
    assert tree(tmp_path) == expected("old")


@WRITERS
def test_killed_process_leaves_the_old_and_the_next_one_cleans_up(tmp_path, write, expected):
    write(tmp_path / "out", "old")
    child = os.fork()
    if not child:
        with whole(tmp_path / "out") as temporary:
            write(temporary, "half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert {name: text for name, text in tree(tmp_path).items() if not name.startswith(".")} == expected("old")
    with whole(tmp_path / "out") as temporary:
        write(temporary, "new")
    assert tree(tmp_path) == expected("new")


def test_a_directory_comes_back_if_the_new_one_can_t_take_its_place(tmp_path, monkeypatch):
    def replace(source, target, move=os.replace):
        if Path(target) == tmp_path / "out" and Path(source).name == "out":
            raise OSError(errno.EIO, "no")
        move(source, target)

    write_directory(tmp_path / "out", "old")
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no"), whole(tmp_path / "out") as temporary:
        write_directory(temporary, "new")
    assert tree(tmp_path) == {"out": None, "out/below": None, "out/below/old": "old"}


def test_a_directory_comes_back_if_the_process_dies_before_the_new_one_takes_its_place(tmp_path):
    write_directory(tmp_path / "out", "old")
    if not (child := os.fork()):

        def replace(source, target, move=os.replace):
            move(source, target)
            os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace
        with whole(tmp_path / "out") as temporary:
            write_directory(temporary, "half")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError), whole(tmp_path / "out"):
        raise ValueError
    assert tree(tmp_path) == {"out": None, "out/below": None, "out/below/old": "old"}


@WRITERS
def test_what_a_living_process_writes_is_left_alone(tmp_path, write, expected):
    with whole(tmp_path / "out") as temporary:
        write(temporary, "first")
        code = (
            "import sys, pathlib; from bitlite.workflow.files import write_bytes, remove; p = pathlib.Path(sys.argv[1])"
        )
        code += "; write_bytes(p, b'second'); remove(p)"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True, cwd=ROOT)
    assert tree(tmp_path) == expected("first")


OVERLAID = """
mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir -p image/below image/out/old upper work seen &&
mount -t overlay overlay -o userxattr,lowerdir=image,upperdir=upper,workdir=work seen || exit 77
"$2" -c '
import os
from pathlib import Path
from bitlite.workflow.files import whole
try:
    os.rename("seen/below", "seen/elsewhere")
except OSError as error:
    print(error.strerror)
with whole(Path("seen/out")) as temporary:
    Path(temporary, "new").mkdir(parents=True)
print(*sorted(str(path) for path in Path("seen").rglob("*")))
'
"""


def test_a_directory_of_a_container_s_image_is_replaced(tmp_path):
    """Of the lower layer of an overlayfs, which moves none: a real one, in a mount namespace of its own."""
    if not shutil.which("unshare"):
        pytest.skip("unshare, which makes mount namespaces, is Linux's")
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", OVERLAID, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no overlayfs can be mounted here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["Invalid cross-device link", "seen/below seen/out seen/out/new"], done.stderr


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EBUSY])
def test_a_directory_that_can_t_be_moved_is_replaced_if_the_file_system_is_why(tmp_path, monkeypatch, number):
    """EXDEV is overlayfs's; EBUSY is a mount point's, which can't be replaced."""
    move = os.replace

    def replace(source, target):
        if Path(source) == tmp_path / "out":
            raise OSError(number, os.strerror(number), str(source))
        move(source, target)

    write_directory(tmp_path / "out", "old")
    monkeypatch.setattr(os, "replace", replace)
    with nullcontext() if number == errno.EXDEV else pytest.raises(OSError), whole(tmp_path / "out") as temporary:
        write_directory(temporary, "new")
    kept = "new" if number == errno.EXDEV else "old"
    assert tree(tmp_path) == {"out": None, "out/below": None, f"out/below/{kept}": kept}


def test_a_linked_directory_keeps_its_place_and_scratch_lies_beside_what_it_becomes(tmp_path):
    """models/ on another disk: nothing is moved from disk to disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    for content in ("old", "new"):
        with whole(tmp_path / "models" / "out") as temporary:
            assert temporary.resolve().is_relative_to(tmp_path / "disk")
            write_directory(temporary, content)
    assert (tmp_path / "models").is_symlink()
    assert tree(tmp_path / "disk") == {"out": None, "out/below": None, "out/below/new": "new"}


def test_a_file_linked_into_a_cache_is_replaced_and_the_cache_s_copy_stays(tmp_path):
    """As DVC's cache.type symlink links outputs."""
    (tmp_path / "cached").write_text("old")
    (tmp_path / "out").symlink_to("cached")
    write_bytes(tmp_path / "out", b"new")
    assert tree(tmp_path) == {"out": "new", "cached": "old"}


def test_what_is_removed_leaves_nothing_of_killed_processes(tmp_path):
    file = tmp_path / "out"
    for _ in range(2):
        if not (child := os.fork()):
            with whole(file) as temporary:
                temporary.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        remove(file)
        assert not tree(tmp_path)
        file.write_text("old")
    assert set(tree(tmp_path)) == {"out"}


def test_json_has_the_same_bytes_in_whatever_order(tmp_path):
    write_json(tmp_path / "a.json", {"b": 0.1, "a": (1, 2), "c": {"z": None, "y": "ä"}})
    write_json(tmp_path / "b.json", {"c": {"y": "ä", "z": None}, "a": [1, 2], "b": 0.1})
    content = (tmp_path / "a.json").read_bytes()
    assert content == (tmp_path / "b.json").read_bytes()
    assert content.endswith(b"}\n")
    assert json.loads(content) == {"a": [1, 2], "b": 0.1, "c": {"y": "ä", "z": None}}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_json_lacks(tmp_path, value):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": value})
    assert tree(tmp_path) == {"a.json": '{\n  "a": 1\n}\n'}


def test_csv_comes_back_as_text(tmp_path):
    rows = [
        {"actual": "rose, red", "predicted": 'a "quoted" one'},
        {"actual": "two\nlines", "predicted": " ä "},
        {"actual": "", "predicted": 0.1},
    ]
    write_csv(tmp_path / "rows.csv", ("actual", "predicted"), iter(rows))
    assert read_csv(tmp_path / "rows.csv") == [{key: str(value) for key, value in row.items()} for row in rows]
    content = (tmp_path / "rows.csv").read_bytes()
    assert content.startswith(b"actual,predicted\n")
    assert b"\r" not in content and " ä ".encode() in content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is missing: run `dvc repro`"),
        (b"", "has no column step"),
        (b"step\n1\n", "has no column loss"),
        (b"step,loss\n1,0.5\n2\n", "has not 2 columns in row 2"),
        (b"step,loss\n1,0.5,7\n", "has not 2 columns in row 1"),
        (b"step,loss\n-1,0.5\n", "has '-1' as step in row 1"),
        (b"step,loss\n1.5,0.5\n", "has '1.5' as step in row 1"),
        (b"step,loss\n1,0.5\n2,nan\n", "has 'nan' as loss in row 2"),
        (b"step,loss\n1,1.1\n", "has '1.1' as loss in row 1"),
        (b"step,loss\n1,x\n", "has 'x' as loss in row 1"),
        (b"step,loss\n1,\xff\n", "is no CSV file"),
        (b'step,loss\n1,"0.5\n', "is no CSV file"),
        (b"step,loss\n1," + b"1" * 200_000, "is no CSV file"),
    ],
)  # fmt: skip
def test_damaged_csv_is_told(tmp_path, content, told):
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_csv(path, {"step": COUNT, "loss": or_nothing(SHARE)})
    assert str(error.value).startswith(f"{path} {told}") and str(error.value).endswith("run `dvc repro`")
    path.write_bytes(b"step,loss,more\n3,,x\n4,1,x\n")
    assert [row["loss"] for row in read_csv(path, {"step": COUNT, "loss": or_nothing(SHARE)})] == ["", "1"]


def stored(path: Path) -> bytes:
    np.savez(path, a=np.arange(6.0), b=np.ones((2, 3), np.float32))
    return path.read_bytes()


def packed(path: Path, method=zipfile.ZIP_DEFLATED, **more: bytes) -> bytes:
    stored(path)
    with zipfile.ZipFile(path) as before:
        members = {name: before.read(name) for name in before.namelist()} | more
    with zipfile.ZipFile(path, "w", method) as after:
        for name, content in members.items():
            after.writestr(name, content)
    return path.read_bytes()


def headed(header: str, content: bytes = b"") -> bytes:
    text = f"{header:<117}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + content


def with_shape(shape: str, content: bytes = b"", descr: str = "'<f4'") -> bytes:
    return headed(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", content)


def marked(content: bytes, *, local: int, central: int, value: int) -> bytes:
    """A zip archive with a byte of each member's two headers changed."""
    changed = bytearray(content)
    for magic, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = -1
        while (at := content.find(magic, at + 1)) >= 0:
            changed[at + offset] = value
    return bytes(changed)


ODD_NPZ = {
    "empty": lambda path: b"",
    "text": lambda path: b"<html>",
    "cut short": lambda path: stored(path)[:-40],
    "a bit flipped": lambda path: stored(path).replace(np.float64(5).tobytes(), np.float64(4).tobytes()),
    "encrypted": lambda path: marked(stored(path), local=6, central=8, value=1),
    "packed in an unknown way": lambda path: marked(stored(path), local=8, central=10, value=97),
    "packed by LZMA, it says": lambda path: marked(stored(path), local=8, central=10, value=14),
    "packed by bzip2, it says": lambda path: marked(stored(path), local=8, central=10, value=12),
    "a bomb": lambda path: packed(path, **{"x.npy": with_shape("(10000000,)", bytes(40_000_000))}),
    "of a pickled object": lambda path: packed(path, **{"x.npy": with_shape("(1,)", b"cos\nsystem\n", "'|O'")}),
    "no array": lambda path: packed(path, **{"x.npy": b"hello"}),
    "an array of terabytes": lambda path: packed(path, **{"x.npy": with_shape("(1000000000000,)")}),
    "an array of less than nothing": lambda path: packed(path, **{"x.npy": with_shape("(-1,)")}),
    "an array of more than it has": lambda path: packed(path, **{"x.npy": with_shape("(2,)", bytes(4))}),
    "an array of less than it has": lambda path: packed(path, **{"x.npy": with_shape("(2,)", bytes(12))}),
    "no shape": lambda path: packed(path, **{"x.npy": headed("{'descr': '<f4'")}),
    "parentheses": lambda path: packed(path, **{"x.npy": headed("(" * 5000)}),
    "an unknown type": lambda path: packed(path, **{"x.npy": with_shape("(1,)", bytes(4), "'foo'")}),
    "a later version": lambda path: packed(path, **{"x.npy": b"\x93NUMPY\x09\0" + bytes(50)}),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD_NPZ)
def test_odd_npz_is_a_value_error_or_the_system_s(tmp_path, odd):
    path = tmp_path / "a.npz"
    path.write_bytes(ODD_NPZ[odd](path))
    with pytest.raises((ValueError, OSError)):
        read_npz(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_is_read_as_numpy_reads_it_and_foreign_members_are_left_alone(tmp_path, method):
    packed(tmp_path / "a.npz", method, **{"readme.txt": b"hello", "../out": b"no"})
    found = read_npz(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as expected:
        assert set(found) == {"a", "b"}
        assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]


def test_csv_without_rows_has_its_header(tmp_path):
    write_csv(tmp_path / "rows.csv", ("step", "loss"), [])
    assert (tmp_path / "rows.csv").read_text() == "step,loss\n"
    assert read_csv(tmp_path / "rows.csv") == []


def test_csv_with_an_unknown_column_leaves_the_old(tmp_path):
    write_csv(tmp_path / "rows.csv", ("step",), [{"step": 1}])
    with pytest.raises(ValueError):
        write_csv(tmp_path / "rows.csv", ("step",), [{"step": 2}, {"step": 3, "loss": 0.5}])
    assert tree(tmp_path) == {"rows.csv": "step\n1\n"}
