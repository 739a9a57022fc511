"""Downloads that are killed go on, and end with the bytes of unbroken ones."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image
from preparing import encoded, files, noise, prepared

from bitlite.images import dataset, decoding
from bitlite.sources import folder as folders
from bitlite.sources import inspection, unfinished
from bitlite.sources.prepare import prepare
from bitlite.workflow.params import Dataset

# Images a class, of two.
EACH = 40
# Prepares a folder, slowly, with a file of records for a few images; on standard output a line for each that is looked
# at or written.
SLOWLY = """
import sys, time
from pathlib import Path
from bitlite.images import dataset, decoding, records
from bitlite.sources import unfinished
from bitlite.sources.prepare import prepare
from bitlite.workflow.params import Dataset

def slowly(name, function):
    def told(*arguments, **settings):
        sys.stdout.write(name + "\\n")  # at once: threads write
        sys.stdout.flush()
        time.sleep(0.003)
        return function(*arguments, **settings)
    return told

dataset.SHARD, unfinished.AT_ONCE = 3000, 1
decoding.see, records.framed = slowly("seen", decoding.see), slowly("written", records.framed)
name, directory, interrupted, settings = sys.argv[1:]
prepare(Dataset(name=name, **eval(settings)), Path(directory), interrupted=Path(interrupted))
"""


@pytest.fixture
def folder(tmp_path):
    """Of images of all kinds that are known apart: kept, encoded anew, of 16 bits."""
    for label in ("ant", "bee"):
        (tmp_path / "folder" / label).mkdir(parents=True)
        for number in range(EACH):
            image, name = noise(number + 1000 * (label == "ant"), 50, 50), f"{number:02}"
            kind = ("JPEG", "PNG", "BMP", "PNG")[number % 4]
            if number % 8 == 3:
                image = image.convert("I;16").point(lambda value: 200 * value)
            (tmp_path / "folder" / label / name).write_bytes(encoded(image, kind))
    age(tmp_path / "folder")
    return tmp_path / "folder"


def age(folder: Path, seconds: float = 100) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def start(folder: Path, tmp_path: Path, **settings) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOWLY, folder, tmp_path / "out" / "set", tmp_path / "interrupted", repr(settings)]
    path = os.pathsep.join([str(Path.cwd()), *sys.path])
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})


def killed_after(folder: Path, tmp_path: Path, name: str, count: int, **settings) -> None:
    process = start(folder, tmp_path, **settings)
    found = 0
    while found < count:
        line = process.stdout.readline()
        assert line, "it ended before"
        found += line.split() == [name]
    process.send_signal(signal.SIGKILL)
    process.communicate()


def went_on(folder: Path, tmp_path: Path, **settings) -> dict[str, int]:
    """How many images an unbroken process sees and writes, which leaves nothing behind."""
    lines, _ = (process := start(folder, tmp_path, **settings)).communicate()
    assert process.returncode == 0
    assert not (tmp_path / "interrupted").exists() and os.listdir(tmp_path / "out") == ["set"]
    return {name: lines.split().count(name) for name in ("seen", "written")}


@pytest.fixture
def unbroken(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD", 3000)
    return files(prepared(tmp_path / "unbroken", folder))


def test_what_was_looked_at_is_not_looked_at_again(folder, tmp_path, unbroken):
    killed_after(folder, tmp_path, "seen", 50)
    counts = went_on(folder, tmp_path)
    # Ten of 16 bits are looked at twice, once their range is known.
    assert counts["seen"] < 2 * EACH + 10 - 30 and counts["written"] == 2 * EACH
    assert files(tmp_path / "out" / "set") == unbroken


def test_files_of_records_that_are_whole_are_not_written_again(folder, tmp_path, unbroken):
    killed_after(folder, tmp_path, "written", 40)
    counts = went_on(folder, tmp_path)
    assert counts["seen"] == 2 * 10, "those of 16 bits alone"
    assert 40 <= counts["written"] < 50
    assert files(tmp_path / "out" / "set") == unbroken


def test_killed_again_and_again_it_ends_with_the_same_bytes(folder, tmp_path, unbroken):
    for name, count in (("seen", 5), ("seen", 30), ("written", 1), ("written", 20), ("written", 20)):
        killed_after(folder, tmp_path, name, count)
    went_on(folder, tmp_path)
    assert files(tmp_path / "out" / "set") == unbroken


@pytest.mark.parametrize("change", ["changed", "added", "removed", "another background", "another share"])
def test_what_has_changed_meanwhile_counts(folder, tmp_path, monkeypatch, change):
    killed_after(folder, tmp_path, "written", 40)
    settings = {}
    if change == "changed":  # the same pixels, in other bytes
        path = folder / "ant" / "01"
        path.write_bytes(encoded(Image.open(io.BytesIO(path.read_bytes())), "PNG", compress_level=0))
    elif change == "added":
        noise(5000).save(folder / "bee" / "new.png")
    elif change == "removed":
        (folder / "bee" / "00").unlink()
    elif change == "another background":
        settings = {"background": "black"}
    else:
        settings = {"test": 0.3}
    counts = went_on(folder, tmp_path, **settings)
    assert counts["written"] == 2 * EACH + {"added": 1, "removed": -1}.get(change, 0)
    assert (counts["seen"] < 30) == (change != "another background")
    monkeypatch.setattr(dataset, "SHARD", 3000)
    assert files(prepared(tmp_path / "unbroken", folder, **settings)) == files(tmp_path / "out" / "set")


@pytest.mark.parametrize("damage", ["cut", "zeros", "of others", "no file of records", "records cut"])
def test_what_a_kill_or_a_crash_has_damaged_is_made_anew(folder, tmp_path, unbroken, damage):
    killed_after(folder, tmp_path, "written", 30)
    seen = tmp_path / "interrupted" / "seen"
    content = seen.read_bytes()
    (part,) = (tmp_path / "interrupted").glob("records/*/train-1")
    if damage == "cut":
        seen.write_bytes(content[:-10])
    elif damage == "zeros":
        seen.write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
    elif damage == "of others":
        seen.write_bytes(bytes(32) + content[32:])
    elif damage == "no file of records":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-5])
    counts = went_on(folder, tmp_path)
    assert files(tmp_path / "out" / "set") == unbroken
    if damage == "of others":  # nothing of theirs is taken, records neither
        assert counts == {"seen": 2 * EACH + 10, "written": 2 * EACH}


def test_a_file_that_has_just_changed_is_looked_at_again(folder, tmp_path, monkeypatch):
    """It may change once more at the same time, as the clocks of file systems tell it."""
    state = unfinished.Unfinished(tmp_path)
    path = folder / "ant" / "00"
    assert state.known(folder, "white", [str(path)]) == {}
    for seconds, kept in ((0, False), (100, True)):
        age(folder, seconds)
        state.note(str(path), decoding.see(path.read_bytes()))
        state.write()
        again = unfinished.Unfinished(tmp_path).known(folder, "white", [str(path)])
        assert again == ({str(path): decoding.see(path.read_bytes())} if kept else {})


def test_of_two_at_once_one_keeps_nothing_and_both_are_right(folder, tmp_path, unbroken):
    first = start(folder, tmp_path)
    assert first.stdout.readline()
    second = tmp_path / "second"
    prepare(Dataset(name=str(folder)), second, interrupted=tmp_path / "interrupted")
    first.communicate()
    assert first.returncode == 0 and not (tmp_path / "interrupted").exists()
    assert files(second) == files(tmp_path / "out" / "set") == unbroken


# Processes


def test_many_images_are_looked_at_in_processes_to_the_same_end(folder, tmp_path, monkeypatch, capfd):
    (folder / "ant" / "broken.jpg").write_bytes(b"\xff\xd8\xffno image")
    one = files(prepared(tmp_path / "one", folder, on_error="skip"))
    told = capfd.readouterr().err
    monkeypatch.setattr(folders, "MANY", 1)
    monkeypatch.setattr(inspection, "GROUP", 7)
    started = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, Popen=subprocess.Popen, **k: started.append(1) or Popen(*a, **k)
    )
    assert files(prepared(tmp_path / "other", folder, on_error="skip")) == one
    assert capfd.readouterr().err == told and "broken.jpg" in told
    assert len(started) == inspection.cores()


def test_in_processes_keeps_order_takes_few_items_ahead_and_raises_what_is_raised():
    taken = []

    def items():
        for number in range(5000):
            taken.append(number)
            yield number

    results = inspection.in_processes(abs, items())
    assert next(results) == 0
    assert len(taken) <= (2 * inspection.cores() + 1) * inspection.GROUP
    assert [0, *results] == list(range(5000))
    with pytest.raises(TypeError, match="bad operand"):
        list(inspection.in_processes(abs, [1, "a"]))


def test_a_process_that_dies_is_told():
    with pytest.raises(RuntimeError, match="a process that decodes images was killed"):
        list(inspection.in_processes(os._exit, [0] * 10_000))


def test_processes_end_with_the_one_that_started_them():
    code = """
import time
import psutil
from bitlite.sources.inspection import in_processes

results = in_processes(time.sleep, iter(lambda: 0, 1))
next(results)
print(*[child.pid for child in psutil.Process().children()], flush=True)
time.sleep(60)
"""
    path = os.pathsep.join([str(Path.cwd()), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == inspection.cores()
    process.kill()
    process.communicate()
    until = time.monotonic() + 5
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
