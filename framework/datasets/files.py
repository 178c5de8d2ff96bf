"""Files of data sets: found, downloaded, and verified by the SHA-256 of their decompressed content."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import ipaddress
import os
import queue
import secrets
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from framework.errors import ConfigError
from framework.untrusted import open_regular

ATTEMPTS = 3
PAUSE_SECONDS = 0.25
"""Before the second attempt; twice that before the third."""
OPEN_SECONDS = 3.0
"""From the request to the first answer. With no network all attempts together take under ten seconds."""
STALL_SECONDS = 10.0
"""Without a byte."""
CHUNK_BYTES = 1 << 16

Advance = Callable[[int, int | None], None]
"""Told of a download: bytes so far, bytes in all if known."""


@dataclass(frozen=True)
class RemoteFile:
    """A gzip file of a data set: its name, ending in .gz, and the size and SHA-256 of what is in it."""

    name: str
    size: int
    sha256: str


def contents(files: Sequence[RemoteFile], root: Path, folder: str, *, source: str, download: bool) -> list[bytes]:
    """Return the decompressed content of each file, found in `root` or `root/folder`, packed or unpacked.

    Missing ones are downloaded from `source`, the URL of their folder, to `root/folder`. Any number of
    processes may do so at once. `folder` is also the name of the data set.
    Raises ConfigError for files that are missing, and for those whose content is not as expected.
    """
    places = (root, root / folder)
    missing = [file for file in files if _find(file, places) is None]
    if missing:
        lack = (
            f"data '{folder}' needs {', '.join(file.name for file in missing)}: "
            f"put what is named, packed or unpacked, into {(root / folder).absolute()}, "
            f"or set data.root to the folder that has it"
        )
        if not download:
            raise ConfigError(f"{lack}, or set data.download=true.")
        try:
            _download_all(missing, root / folder, source)
        except OSError as error:
            raise ConfigError(f"{lack}. The download failed: {error}") from error
    return [_read(path, file) for file in files if (path := _find(file, places))]


def _find(file: RemoteFile, places: Sequence[Path]) -> Path | None:
    names = (file.name, file.name.removesuffix(".gz"))
    paths = (p / name for p in places for name in names)
    return next((p for p in paths if os.path.isfile(p)), None)  # noqa: PTH113  # no error without permission


def _read(path: Path, file: RemoteFile) -> bytes:
    try:
        return verified(path, file)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ConfigError(f"{path} is not the right file: {error}. Replace it, or delete it.") from error


def verified(path: Path, file: RemoteFile) -> bytes:
    """Return the decompressed content of a file, of which no more than the expected size is unpacked.

    Raises ValueError where the size or the SHA-256 differs, OSError, EOFError or zlib.error where it cannot
    be read.
    """
    with open_regular(path) as packed:
        is_gzip = packed.read(2) == b"\x1f\x8b"
        packed.seek(0)
        stream = gzip.GzipFile(fileobj=packed) if is_gzip else packed
        content = stream.read(file.size + 1)
    if len(content) != file.size:
        got = f"{len(content):,}" if len(content) < file.size else "more"
        raise ValueError(f"its content must have {file.size:,} bytes, got {got}")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        raise ValueError(f"the SHA-256 of its content must be {file.sha256}, got {sha256}")
    return content


def _download_all(files: Sequence[RemoteFile], folder: Path, source: str) -> None:
    if not _is_safe(source):
        raise ConfigError(f"data is downloaded by https only, got {source!r}: set data.source=https://...")
    folder.mkdir(parents=True, exist_ok=True)
    with _progress() as bar:
        for file in files:
            _download(f"{source.rstrip('/')}/{file.name}", file, folder, bar(file.name))


def _is_safe(url: str) -> bool:
    """Tell whether a URL is https, or http of this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return parts.scheme == "https" and bool(host)


def _download(url: str, file: RemoteFile, folder: Path, advance: Advance) -> None:
    """Download one file, in some attempts; it appears under its name only when whole and verified."""
    part = folder / f".{file.name}.{secrets.token_hex(4)}.part"
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * attempt)
        try:
            _save(url, part, file.size + CHUNK_BYTES, advance)
            verified(part, file)
            part.replace(folder / file.name)
        except HTTPError as error:
            error.close()
            failure: Exception = error
            if error.code < 500:
                break
        except (OSError, EOFError, zlib.error, ValueError, http.client.HTTPException) as error:
            failure = error
        else:
            return
        finally:
            part.unlink(missing_ok=True)
    raise OSError(f"{url}: {failure}.") from failure


def _save(url: str, part: Path, limit: int, advance: Advance) -> None:
    with _open(url) as response, part.open("xb") as out:
        length = response.headers.get("Content-Length", "")
        size = 0
        while chunk := response.read(CHUNK_BYTES):
            size += out.write(chunk)
            if size > limit:
                raise ValueError(f"it is longer than {limit:,} bytes")
            advance(size, int(length) if length.isdigit() else None)


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows to where a source itself could be."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not _is_safe(newurl):
            raise HTTPError(newurl, code, f"sent on to {newurl!r}, which is not https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str) -> http.client.HTTPResponse:
    """Open a URL within OPEN_SECONDS, looking up its host included, which no socket's timeout bounds."""
    answers: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.build_opener(_Redirect).open(url, timeout=STALL_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=OPEN_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {OPEN_SECONDS:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextmanager
def _progress() -> Iterator[Callable[[str], Advance]]:
    """Show a bar for each file on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def bar(name: str) -> Advance:
            task = progress.add_task(name, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield bar
