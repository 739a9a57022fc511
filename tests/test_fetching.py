import base64
import gzip
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import loopback
import pytest
from loopback import Flaky, sends, server

from bitlite.backbones import fetching
from bitlite.backbones.fetching import fetched, resolved
from bitlite.workflow.errors import InputError

ROOT = Path(__file__).parents[1]
HALF = 16 * fetching.CHUNK
CONTENT = os.urandom(2 * HALF)


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    monkeypatch.setattr(fetching, "WAIT_S", 0)


def fetch(address: str) -> bytes:
    with fetched(address) as path:
        return path.read_bytes()


def resolve(handle: str) -> list[str]:
    with resolved(handle) as path:
        return sorted(each.name for each in path.iterdir())


def refusal(get, address: str) -> str:
    with pytest.raises(InputError) as error:
        get(address)
    message = str(error.value)
    assert message.startswith(address) and len(message.splitlines()) == 1
    return message


def lying() -> list[str]:
    """Suffixes of what lies in the downloads."""
    return sorted(path.suffix for path in Path("data/downloads").glob("*"))


def digest(content: bytes) -> str:
    return f"crc32c=AAAAAA==,md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"


# Whole


def test_file_is_fetched_once():
    with server(sends(CONTENT)) as (address, asked):
        assert fetch(f"{address}/a/BiT.npz") == CONTENT
        assert fetch(f"{address}/a/BiT.npz") == CONTENT
    assert asked == ["/a/BiT.npz"]
    assert fetch(f"{address}/a/BiT.npz") == CONTENT  # the server is gone
    assert lying() == [".npz"]


def test_files_of_one_name_are_told_apart():
    with server(lambda handler: sends(handler.path.encode())(handler)) as (address, _):
        paths = ["/a/BiT.npz", "/b/BiT.npz", "/a/BiT.npz?version=2"]
        assert [fetch(address + path) for path in paths] == [path.encode() for path in paths]


def test_file_found_useless_is_fetched_again():
    with server(sends(CONTENT)) as (address, asked):
        with pytest.raises(ValueError, match="no weights"), fetched(f"{address}/BiT.npz"):
            raise ValueError("no weights")
        assert fetch(f"{address}/BiT.npz") == CONTENT
    assert len(asked) == 2


def test_file_that_a_full_disk_kept_from_being_used_is_not_fetched_again():
    with server(sends(CONTENT)) as (address, asked):
        with pytest.raises(OSError, match="full"), fetched(f"{address}/BiT.npz"):
            raise OSError("full")
        assert fetch(f"{address}/BiT.npz") == CONTENT
    assert len(asked) == 1


def test_bytes_are_asked_for_as_they_lie():
    def respond(handler):
        encodings = handler.headers["Accept-Encoding"] or ""
        sends(*((gzip.compress(CONTENT),) if "gzip" in encodings else (CONTENT,)))(handler)

    with server(respond) as (address, _):
        assert fetch(f"{address}/BiT.npz") == CONTENT


# Broken connections


def test_broken_connection_is_continued():
    file = Flaky(CONTENT, breaks=1, x_goog_hash=digest(CONTENT))
    with server(file) as (address, _):
        assert fetch(f"{address}/BiT.npz") == CONTENT
    assert file.asked_from == [0, HALF]
    assert lying() == [".npz"]


def test_connection_that_keeps_breaking_is_continued_as_long_as_something_arrives():
    file = Flaky(CONTENT, breaks=fetching.RETRIES + 2)
    with server(file) as (address, _):
        assert fetch(f"{address}/BiT.npz") == CONTENT
    assert len(file.asked_from) == fetching.RETRIES + 3


def test_server_without_ranges_is_asked_for_all_again():
    with server(Flaky(CONTENT, breaks=2, ranges=False)) as (address, asked):
        assert fetch(f"{address}/BiT.npz") == CONTENT
    assert len(asked) == 3


def test_connection_that_always_breaks_ends_and_nothing_shows():
    with server(Flaky(CONTENT, breaks=99, ranges=False)) as (address, asked):
        assert "more expected" in refusal(fetch, f"{address}/BiT.npz")
    assert len(asked) == 2 + fetching.RETRIES
    assert ".npz" not in lying()


def test_waits_longer_after_each_fruitless_retry(monkeypatch):
    waits = []
    monkeypatch.setattr(fetching, "WAIT_S", 1)
    monkeypatch.setattr(time, "sleep", waits.append)
    with server(Flaky(CONTENT, breaks=99, ranges=False)) as (address, _):
        refusal(fetch, f"{address}/BiT.npz")
    assert waits == [1, 2, 4, 8]


def test_killed_download_is_continued_by_the_next():
    file, killed = Flaky(CONTENT), threading.Event()

    def stalls_half_way(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.send_header("ETag", file.tag)
        handler.end_headers()
        handler.wfile.write(CONTENT[:HALF])
        killed.wait(60)

    with server(lambda handler: (file if killed.is_set() else stalls_half_way)(handler)) as (address, _):
        code = f"from bitlite.backbones.fetching import fetched\nwith fetched('{address}/BiT.npz'): pass"
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
        while not any(path.stat().st_size for path in Path("data/downloads").glob("*.part")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.set()
        assert lying() == [".etag", ".part"]
        assert fetch(f"{address}/BiT.npz") == CONTENT
    assert 0 < file.asked_from[0] <= HALF
    assert lying() == [".npz"]


@pytest.mark.parametrize("length", [1000, HALF + 1000])
def test_file_that_changed_meanwhile_is_fetched_from_its_beginning(length):
    file = Flaky(CONTENT, breaks=1)

    def changes(handler):
        file(handler)
        file.content, file.tag = CONTENT[-length:], '"2"'

    with server(changes) as (address, _):
        assert fetch(f"{address}/BiT.npz") == CONTENT[-length:]
    assert file.asked_from == [0, HALF]


@pytest.mark.parametrize("length", [1000, HALF])
def test_file_with_nothing_behind_what_has_arrived_is_fetched_from_its_beginning(length):
    file = Flaky(CONTENT, breaks=1)

    def shrinks(handler):
        file(handler)
        file.content = CONTENT[:length]

    with server(shrinks) as (address, _):
        assert fetch(f"{address}/BiT.npz") == CONTENT[:length]
    assert file.asked_from == [0, HALF, 0]


@pytest.mark.parametrize("tag", ['W/"1"', ""])
def test_file_without_a_strong_tag_is_not_continued(tag):
    file = Flaky(CONTENT, breaks=1, tag=tag)
    with server(file) as (address, _):
        assert fetch(f"{address}/BiT.npz") == CONTENT
    assert file.asked_from == [0, 0]


def test_encoded_transfer_is_not_continued():
    file = Flaky(gzip.compress(CONTENT), breaks=1, content_encoding="gzip")
    with server(file) as (address, _):
        assert fetch(f"{address}/BiT.npz") == CONTENT
    assert file.asked_from == [0, 0]


# Experiments


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """The working directory is the one in which DVC runs a queued experiment of the project in tmp_path."""
    (tmp_path / "dvc.yaml").write_text("")
    folder = tmp_path / ".dvc/tmp/exps/tmpabcd"
    folder.mkdir(parents=True)
    (folder / "dvc.yaml").write_text("")
    monkeypatch.chdir(folder)
    return folder


def test_experiments_find_what_the_project_has_fetched(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with server(sends(CONTENT)) as (address, asked):
        fetch(f"{address}/BiT.npz")
        monkeypatch.chdir(experiment)
        assert fetch(f"{address}/BiT.npz") == CONTENT
        assert fetch(f"{address}/other.npz") == CONTENT
        monkeypatch.chdir(tmp_path)
        assert fetch(f"{address}/other.npz") == CONTENT
    assert asked == ["/BiT.npz", "/other.npz"]
    assert [path.name for path in experiment.iterdir()] == ["dvc.yaml"]


def test_experiments_beside_each_other_fetch_a_file_once():
    def slowly(handler):
        time.sleep(0.3)
        sends(CONTENT)(handler)

    found = []
    with server(slowly) as (address, asked):
        threads = [threading.Thread(target=lambda: found.append(fetch(f"{address}/BiT.npz"))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == 3 * [CONTENT]
    assert asked == ["/BiT.npz"]


# Errors


@pytest.mark.parametrize("breaks", [0, 1])
def test_wrong_digest_is_an_error_and_leaves_nothing(breaks):
    with server(Flaky(CONTENT, breaks=breaks, x_goog_hash=digest(b"other"))) as (address, _):
        assert "MD5" in refusal(fetch, f"{address}/BiT.npz")
    assert not {".npz", ".part"} & set(lying())


def test_digest_of_another_kind_is_not_checked():
    with server(sends(CONTENT, x_goog_hash="crc32c=AAAAAA==")) as (address, _):
        assert fetch(f"{address}/BiT.npz") == CONTENT


@pytest.mark.parametrize("get", [fetch, resolve])
@pytest.mark.parametrize("code", [404, 503])
def test_refused_request_is_told_at_once(get, code):
    with server(lambda handler: handler.send_error(code)) as (address, asked):
        assert str(code) in refusal(get, f"{address}/bit/1")
    assert len(asked) == 1


@pytest.mark.parametrize("get", [fetch, resolve])
def test_closed_port(get):
    with loopback.closed_port() as address:
        message = refusal(get, f"{address}/bit/1")
    assert "refused" in message and "give its path as backbone.source" in message


@pytest.mark.parametrize("get", [fetch, resolve])
def test_silent_server_is_given_up_in_time(get, monkeypatch):
    assert fetching.TIMEOUT_S <= 15
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.5)
    with loopback.silent() as address:
        start = time.monotonic()
        message = refusal(get, f"{address}/bit/1")
    assert "timed out" in message and "give its path as backbone.source" in message
    assert time.monotonic() - start < 5


def archive() -> bytes:
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            member = tarfile.TarInfo("saved_model.pb")
            member.size = len(CONTENT)
            tar.addfile(member, io.BytesIO(CONTENT))
        return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"<html>Log in first</html>", b"", archive()[:HALF], archive()[:HALF] + bytes(HALF)],
    ids=["a page", "empty", "cut short", "damaged"],
)
def test_module_that_is_no_archive_is_an_error_and_leaves_nothing(content):
    with server(sends(content)) as (address, _):
        refusal(resolve, f"{address}/bit/1")
    assert list(Path("hub").iterdir()) == []


@pytest.mark.parametrize("before", [None, 7.0])
def test_other_sockets_keep_their_timeout(before):
    socket.setdefaulttimeout(before)
    try:
        with loopback.closed_port() as address:
            refusal(resolve, f"{address}/bit/1")
        assert socket.getdefaulttimeout() == before
    finally:
        socket.setdefaulttimeout(None)
