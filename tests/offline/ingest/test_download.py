"""Downloading, against a real server that can break off, lie and be absent."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from offline.ingest import download as module
from offline.ingest.download import download
from recsys.errors import DataMalformed, DataMissing

CONTENT = bytes(range(256)) * 4_000


class _Server(ThreadingHTTPServer):
    """Serves ml-100k.zip and its checksum; `limits` are the bytes after which each coming transfer breaks off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.checksum = f"MD5 (ml-100k.zip) = {hashlib.md5(CONTENT).hexdigest()}\n"
        self.limits: list[int] = []
        self.ranges: list[str | None] = []
        self.supports_range = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/ml-100k.zip.md5":
            self._answer(HTTPStatus.OK, self.server.checksum.encode())
        elif self.path == "/ml-100k.zip":
            self._send_zip()
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"")

    def _send_zip(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.supports_range else 0
        if start >= len(self.server.content):
            self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"")
            return
        status = HTTPStatus.PARTIAL_CONTENT if asked and self.server.supports_range else HTTPStatus.OK
        self._answer(status, self.server.content[start:])

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit = self.server.limits.pop(0) if self.server.limits and self.path.endswith(".zip") else len(body)
        self.wfile.write(body[:limit])

    def log_message(self, *args: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("no_proxy", "*")
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_whole_file_arrives_under_its_name(server: _Server, tmp_path: Path) -> None:
    path = download("ml-100k", tmp_path / "new" / "folder", base_url=server.url)
    assert path == tmp_path / "new" / "folder" / "ml-100k.zip"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["ml-100k.zip"]


def test_a_file_that_is_there_is_not_fetched_again(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(b"put here by hand")
    assert download("ml-100k", tmp_path, base_url=server.url).read_bytes() == b"put here by hand"
    assert server.ranges == []


def test_a_transfer_that_breaks_off_is_taken_up_where_it_stopped(server: _Server, tmp_path: Path) -> None:
    server.limits = [300_000, 200_000]
    assert download("ml-100k", tmp_path, base_url=server.url).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_an_interrupted_download_resumes_in_the_next_run(server: _Server, tmp_path: Path) -> None:
    server.limits = [100_000, 0]
    with pytest.raises(DataMissing, match="broke off"):
        download("ml-100k", tmp_path, base_url=server.url)
    assert (tmp_path / "ml-100k.zip.part").stat().st_size == 100_000
    assert not (tmp_path / "ml-100k.zip").exists()
    server.ranges.clear()
    assert download("ml-100k", tmp_path, base_url=server.url).read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-"]


def test_a_server_without_ranges_sends_everything_again(server: _Server, tmp_path: Path) -> None:
    server.supports_range = False
    (tmp_path / "ml-100k.zip.part").write_bytes(CONTENT[:100_000])
    assert download("ml-100k", tmp_path, base_url=server.url).read_bytes() == CONTENT


def test_a_complete_part_needs_no_transfer(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "ml-100k.zip.part").write_bytes(CONTENT)
    assert download("ml-100k", tmp_path, base_url=server.url).read_bytes() == CONTENT


def test_a_part_of_another_file_is_thrown_away(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "ml-100k.zip.part").write_bytes(b"other" * 1_000)
    assert download("ml-100k", tmp_path, base_url=server.url).read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-", None]


def test_a_wrong_checksum_keeps_nothing(server: _Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataMalformed, match=f"expected {hashlib.md5(CONTENT).hexdigest()}"):
        download("ml-100k", tmp_path, base_url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_checksum_says_what_to_do(server: _Server, tmp_path: Path) -> None:
    server.checksum = "<html>log in first</html>"
    with pytest.raises(DataMissing, match="holds no md5 checksum but '<html>log in first</html>'"):
        download("ml-100k", tmp_path, base_url=server.url)


def test_a_file_the_server_does_not_have_says_what_to_do(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"404.*By hand: .* put the file at .*ml-1m\.zip") as caught:
        download("ml-1m", tmp_path, base_url=server.url)
    assert str(tmp_path / "ml-1m.zip") in str(caught.value)


def test_without_network_it_fails_quickly_and_says_how_to_do_it_by_hand(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/movielens"
        began = time.monotonic()
        with pytest.raises(DataMissing, match="By hand") as caught:
            download("ml-20m", tmp_path, base_url=url)
    assert time.monotonic() - began < module.TIMEOUT_SECONDS
    assert f"{url}/ml-20m.zip" in str(caught.value)
    assert str(tmp_path / "ml-20m.zip") in str(caught.value)


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DataMissing, match="timed out"):
        download("ml-20m", tmp_path, base_url=f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(("name", "url"), [("ml-2m", "http://127.0.0.1/"), ("ml-1m", "file:///etc/")])
def test_unknown_names_and_addresses_are_refused(tmp_path: Path, name: str, url: str) -> None:
    with pytest.raises(DataMissing, match=r"these can: ml-latest-small|begins with https"):
        download(name, tmp_path, base_url=url)
