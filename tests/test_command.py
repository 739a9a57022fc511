"""How a stage ends that can't do its work: with a line of what is wrong, and one of how to go on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def ended(main: str, **environment: str) -> subprocess.CompletedProcess:
    """A process in which `main`, an expression, is run as a stage's."""
    code = f"from pathlib import Path; from bitlite.workflow.command import run; run(lambda: {main})"
    # Of a locale that is set as a whole, Python takes no other for it.
    changed = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    return subprocess.run([sys.executable, "-c", code], env=changed, capture_output=True, encoding="utf-8")


def test_a_locale_that_is_not_of_utf_8_is_refused():
    done = ended("print('never')", LC_ALL="C", PYTHONUTF8="0")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "for ascii: set PYTHONUTF8=1" in done.stderr


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "1"}, {"LC_ALL": "no.UTF-8"}])
def test_a_system_without_a_locale_has_utf_8(environment):
    done = ended("print('Größe 模型')", **environment)
    assert (done.stdout, done.stderr) == ("Größe 模型\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_told_in_one_line():
    done = ended("Path('/dev/full').write_text('text')")
    assert (done.returncode, done.stderr) == (1, "[Errno 28] No space left on device\n")


def test_what_may_not_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("nothing is closed to this user")
    done = ended(f"Path({str(tmp_path / 'closed' / 'file')!r}).touch()")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert str(tmp_path / "closed" / "file") in done.stderr


def test_what_an_error_names_can_not_reach_the_console():
    error = r"InputError('a\x1b[2J\nb')"
    done = ended(f"(_ for _ in ()).throw(__import__('bitlite.workflow.errors', fromlist=['*']).{error})")
    assert (done.returncode, done.stderr) == (1, "a\\x1b[2J\nb\n")


def test_what_is_not_the_users_fault_is_told_with_its_type():
    done = ended("{}['a key']")
    assert (done.returncode, done.stderr) == (1, "KeyError: 'a key' (BITLITE_DEBUG=1 shows where)\n")


def test_a_traceback_is_shown_to_who_asks_for_it():
    assert "Traceback" in ended("{}['a key']", BITLITE_DEBUG="1").stderr
    assert "Traceback" not in ended("{}['a key']", BITLITE_DEBUG="0").stderr


def test_a_stage_says_how_to_go_on_and_shows_a_traceback_if_asked(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: [\n")
    command = [sys.executable, "-m", "stages.params"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}

    def stderr(*options: str) -> str:
        done = subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr

    first, second = stderr().splitlines()
    assert "params.yaml" in first
    assert "`dvc repro` goes on" in second
    assert "Traceback" in stderr("--verbose")


def test_a_reader_that_has_enough_ends_it_without_a_word():
    code = "from bitlite.workflow.command import run; run(lambda: [print('line', flush=True) for _ in range(10**5)])"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
