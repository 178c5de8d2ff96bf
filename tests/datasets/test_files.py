"""Downloads from a server on this machine: verified, retried, bounded, and never half there."""

import gzip
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import body, remote, status

from framework.datasets import files
from framework.errors import ConfigError

CONTENT = bytes(range(256)) * 2000
PACKED = gzip.compress(CONTENT)
FILE = remote("numbers.gz", CONTENT)


def get(root: Path, source: str, file: files.RemoteFile = FILE, download: bool = True) -> bytes:
    return files.contents([file], root, "set", source=source, download=download)[0]


def test_downloads_once_and_leaves_only_the_file(server, tmp_path):
    server.answers["numbers.gz"] = [body(PACKED)]
    assert get(tmp_path, server.url) == CONTENT
    assert get(tmp_path, server.url.rstrip("/")) == CONTENT
    assert server.requests == ["numbers.gz"]
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["numbers.gz"]
    assert (tmp_path / "set" / "numbers.gz").read_bytes() == PACKED


@pytest.mark.parametrize("place", ["numbers.gz", "numbers", "set/numbers.gz", "set/numbers"])
def test_finds_packed_and_unpacked_in_both_places_without_a_network(place, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / place).write_bytes(PACKED if place.endswith("gz") else CONTENT)
    assert get(tmp_path, "ftp://nowhere") == CONTENT


BAD = {
    "wrong content": (gzip.compress(CONTENT[::-1]), "the SHA-256 of its content must be"),
    "too short": (gzip.compress(CONTENT[:-1]), "must have 512,000 bytes, got 511,999"),
    "too long": (gzip.compress(CONTENT + b"x"), "must have 512,000 bytes, got more"),
    "bomb": (gzip.compress(b"\0" * 2**28), "must have 512,000 bytes, got more"),
    "truncated": (PACKED[:-100], "ended before"),
    "broken": (PACKED[:500] + b"\xff" * 100 + PACKED[600:], ""),
    "not gzip": (b"<html>captive portal</html>", "must have 512,000 bytes, got 27"),
    "empty": (b"", "must have 512,000 bytes, got 0"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_download_is_tried_again_and_then_refused(kind, server, tmp_path):
    content, message = BAD[kind]
    server.answers["numbers.gz"] = [body(content)]
    with pytest.raises(ConfigError, match=f"The download failed: {server.url}numbers.gz: .*{message}"):
        get(tmp_path, server.url)
    assert len(server.requests) == files.ATTEMPTS
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_on_disk_is_refused_and_kept(kind, tmp_path):
    content, message = BAD[kind]
    (tmp_path / "numbers.gz").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"numbers\.gz is not the right file: .*{message}.*Replace it"):
        get(tmp_path, "https://localhost:1")
    assert (tmp_path / "numbers.gz").read_bytes() == content


@pytest.mark.parametrize(
    "first", [status(503), body(PACKED[:900], announced=len(PACKED)), body(gzip.compress(b"other"))]
)
def test_the_second_attempt_may_succeed(first, server, tmp_path):
    server.answers["numbers.gz"] = [first, body(PACKED)]
    assert get(tmp_path, server.url) == CONTENT
    assert len(server.requests) == 2


def test_not_found_is_not_asked_again(server, tmp_path):
    with pytest.raises(ConfigError, match="HTTP Error 404") as error:
        get(tmp_path, server.url)
    assert len(server.requests) == 1
    assert f"needs numbers.gz: put what is named, packed or unpacked, into {tmp_path / 'set'}" in str(error.value)


def test_an_endless_body_is_cut_off(server, tmp_path):
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(b"\0" * 2**16)
                sent.append(2**16)
        except OSError:
            pass

    server.answers["numbers.gz"] = [endless]
    with pytest.raises(ConfigError, match="longer than 577,536 bytes"):
        get(tmp_path, server.url)
    assert sum(sent) < 100 * 2**20


def test_a_silent_server_costs_seconds(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "OPEN_SECONDS", 0.1)
    release = threading.Event()
    server.answers["numbers.gz"] = [lambda handler: release.wait(5)]
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"no answer within 0\.1 s"):
        get(tmp_path, server.url)
    assert time.perf_counter() - start < 2
    release.set()


def test_a_stalled_body_costs_seconds(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "STALL_SECONDS", 0.1)
    release = threading.Event()

    def stall(handler):
        body(PACKED[:100], announced=len(PACKED))(handler)
        release.wait(5)

    server.answers["numbers.gz"] = [stall]
    start = time.perf_counter()
    with pytest.raises(ConfigError, match="timed out"):
        get(tmp_path, server.url)
    assert time.perf_counter() - start < 2
    release.set()


def test_no_network_fails_within_seconds():
    longest = files.ATTEMPTS * files.OPEN_SECONDS + files.PAUSE_SECONDS * sum(range(files.ATTEMPTS))
    assert longest < 10


def test_a_server_that_is_down(server, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    with pytest.raises(ConfigError, match="refused"):
        get(tmp_path, url)


def test_a_host_that_does_not_exist(server, tmp_path):
    with pytest.raises(ConfigError, match=r"put what is named.*The download failed: https://no-host\.invalid"):
        get(tmp_path, "https://no-host.invalid/")


@pytest.mark.parametrize(
    "source",
    [
        "http://example.com/",
        "file:///etc",
        "ftp://127.0.0.1/",
        "HTTPX://a",
        "https://",
        "",
        "/x",
        "http://[oops/",
        "http://127.0.0.1.example.com/",
    ],
)
def test_only_https_or_this_machine(source, tmp_path):
    with pytest.raises(ConfigError, match="by https only"):
        get(tmp_path, source)
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_may_not_leave_https(server, tmp_path):
    server.answers["numbers.gz"] = [status(302, Location="http://example.com/numbers.gz")]
    with pytest.raises(ConfigError, match=r"sent on to 'http://example\.com.*not https"):
        get(tmp_path, server.url)
    server.answers["numbers.gz"] = [status(302, Location=f"{server.url}moved.gz")]
    server.answers["moved.gz"] = [body(PACKED)]
    assert get(tmp_path, server.url) == CONTENT


def test_without_download_every_missing_file_is_named(tmp_path):
    others = [remote("a.gz", b"a"), remote("b.gz", b"b"), remote("c.gz", b"c")]
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(ConfigError, match=r"needs a\.gz, c\.gz: .*data\.download=true") as error:
        files.contents(others, tmp_path, "set", source="https://x", download=False)
    assert str(tmp_path / "set") in str(error.value)


def test_a_root_that_cannot_be_a_folder(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"The download failed: .*Not a directory"):
        get(tmp_path / "file", server.url)


def test_two_processes_at_once_both_end_well(server, tmp_path):
    both = threading.Barrier(2)

    def answer(handler):
        both.wait(50)
        body(PACKED)(handler)

    server.answers["numbers.gz"] = [answer]
    code = (
        "import sys; from pathlib import Path; from framework.datasets.files import RemoteFile, contents\n"
        f"file = RemoteFile({FILE.name!r}, {FILE.size}, {FILE.sha256!r})\n"
        "contents([file], Path(sys.argv[1]), 'set', source=sys.argv[2], download=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), server.url]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(server.requests) == 2
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["numbers.gz"]
    assert get(tmp_path, "") == CONTENT
