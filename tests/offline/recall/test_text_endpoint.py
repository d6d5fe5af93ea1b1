"""The embeddings client against a real HTTP server that limits, fails, cuts answers short, and recovers."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from offline.dataset.tables import SCHEMAS
from offline.recall.text.cache import VectorCache, content_key
from offline.recall.text.config import TextConfig
from offline.recall.text.vectors import FACTS_FILE, VECTORS_FILE, WORDS_FILE, ask_endpoint, text_vectors
from offline.recall.two_tower import ItemSideData
from recsys.catalogue import Catalogue
from recsys.errors import DataError, DataMalformed, DataMissing

KEY = "sk-very-secret"
TEXTS = [f"film number {number}" for number in range(20)]


def vector_of(text: str) -> list[float]:
    """What the server says a text's vector is."""
    return [float(len(text)), float(sum(text.encode()) % 97), 1.0]


@dataclass
class Reply:
    """One answer: a status, headers, and a body that may be shorter than its stated length."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """None: the right vectors."""
    cut: int = 0
    """Bytes of the body that never arrive."""
    hang: bool = False
    seconds: float = 0.0
    """What it takes."""


@dataclass
class EndpointServer:
    """A running endpoint: what it was asked, and a script of what it does wrong, request by request."""

    url: str = ""
    script: Callable[[int, list[str]], Reply] = lambda number, texts: Reply()
    asked: list[list[str]] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    requests: list[tuple[str, str | None, dict[str, Any]]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    def config(self, **changes: Any) -> TextConfig:
        settings = {"source": "endpoint", "url": self.url, "batch_size": 4, "threads": 2, "key_variable": "TEST_KEY"}
        return TextConfig.model_validate({**settings, **changes})


def right_answer(texts: Sequence[str]) -> bytes:
    """The vectors, last first: order is the index's business."""
    data = [{"object": "embedding", "index": row, "embedding": vector_of(text)} for row, text in enumerate(texts)]
    return json.dumps({"object": "list", "data": data[::-1]}).encode()


def handler_of(server: EndpointServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            texts = body["input"]
            with server.lock:
                number = len(server.asked)
                server.asked.append(texts)
                server.moments.append(time.monotonic())
                server.requests.append((self.path, self.headers.get("Authorization"), body))
                reply = server.script(number, texts)
            if reply.hang:
                server.released.wait(60)
                return
            time.sleep(reply.seconds)
            content = right_answer(texts) if reply.body is None else reply.body
            if reply.status == 200 and not reply.cut and reply.body is None:
                with server.lock:
                    server.answered += texts
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) - reply.cut])

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointServer]:
    monkeypatch.delenv("TEST_KEY", raising=False)
    state = EndpointServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(state))
    http.daemon_threads = True
    state.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.released.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[VectorCache]:
    with VectorCache(tmp_path / "kept" / "vectors.sqlite") as opened:
        yield opened


def expected(texts: Sequence[str]) -> np.ndarray:
    return np.asarray([vector_of(text) for text in texts], np.float32)


def test_vectors_come_in_the_order_of_the_texts_and_each_text_is_asked_once(
    server: EndpointServer, cache: VectorCache
) -> None:
    texts = [*TEXTS, TEXTS[3], TEXTS[0]]
    assert_array_equal(ask_endpoint(texts, server.config(dimensions=3), cache), expected(texts))
    assert sorted(text for batch in server.asked for text in batch) == sorted(TEXTS)
    assert [len(batch) for batch in server.asked] == [4] * 5
    path, authorization, body = server.requests[0]
    assert (path, authorization) == ("/v1/embeddings", None)
    assert (body["model"], body["dimensions"], body["encoding_format"]) == ("text-embedding-3-small", 3, "float")


def test_the_vectors_of_a_catalogue_come_from_the_endpoint_and_are_kept(server: EndpointServer, tmp_path: Path) -> None:
    """From tables to the folder that the towers read: one row per item of the catalogue, each of length 1."""
    numbers = np.asarray([3, 5, 8, 9, 12], np.int64)
    titles = pa.table({"item_id": numbers[::-1], "title": [f"Film {number}" for number in numbers[::-1]]})
    pq.write_table(titles, tmp_path / "items.parquet")
    for name in ("item_people", "item_texts"):
        pq.write_table(SCHEMAS[name].empty_table(), tmp_path / f"{name}.parquet")
    catalogue = Catalogue(numbers, np.full(5, 1990, np.int16), np.ones((5, 1), np.bool_), ("Drama",))
    config, kept = server.config(dimensions=3), tmp_path / "vectors.sqlite"
    found = text_vectors(tmp_path, catalogue, tmp_path / "first", config, cache=kept)
    texts = [f"Film {number} (1990). Drama" for number in numbers]
    wanted = expected(texts) / np.linalg.norm(expected(texts), axis=1, keepdims=True)
    assert found is not None
    assert_allclose(found, wanted, rtol=1e-6)
    assert_array_equal(np.load(tmp_path / "first" / VECTORS_FILE), found)
    assert_allclose(ItemSideData.of(catalogue, tmp_path / "first").text, wanted, rtol=1e-6)
    facts = json.loads((tmp_path / "first" / FACTS_FILE).read_text("utf-8"))
    assert facts == {
        "source": "endpoint", "model": "text-embedding-3-small", "dimensions": 3, "items": 5, "empty": 0
    }  # fmt: skip
    assert not (tmp_path / "first" / WORDS_FILE).exists()
    assert sorted(text for batch in server.asked for text in batch) == sorted(texts)
    asked = len(server.asked)
    again = text_vectors(tmp_path, catalogue, tmp_path / "again", config, cache=kept, earlier=tmp_path / "first")
    assert again is not None
    assert_array_equal(again, found)
    assert len(server.asked) == asked, "what is kept is not asked for again"


def test_a_limit_is_obeyed_by_every_thread_and_passes(server: EndpointServer, cache: VectorCache) -> None:
    server.script = lambda number, _: Reply(429, {"Retry-After": "0.4"}, b"slow down") if number == 0 else Reply()
    found = ask_endpoint(TEXTS, server.config(threads=1), cache)
    assert_array_equal(found, expected(TEXTS))
    assert server.asked[1] == server.asked[0]
    assert server.moments[1] - server.moments[0] >= 0.4


def test_one_thread_that_is_told_to_wait_holds_the_others_back(server: EndpointServer, cache: VectorCache) -> None:
    """The other one's request takes a while, so that it hears of the time to wait before it can send a next one."""

    def script(number: int, _: list[str]) -> Reply:
        return Reply(429, {"Retry-After": "2"}, b"") if number == 0 else Reply(seconds=1.0 if number == 1 else 0.0)

    server.script = script
    ask_endpoint(TEXTS, server.config(batch_size=1), cache)
    after = [moment - server.moments[0] for moment in server.moments[1:]]
    assert sum(moment < 1.9 for moment in after) <= 1, "only what was under way may arrive before the time is over"
    assert len(server.asked) == len(TEXTS) + 1


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(500, body=b"oops"),
        Reply(503, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, b""),
        Reply(cut=25),
        Reply(body=b"<html>gateway</html>"),
    ],
    ids=["fails", "asks to wait until a past date", "cut short", "no JSON"],
)
def test_what_passes_is_asked_again(server: EndpointServer, cache: VectorCache, trouble: Reply) -> None:
    server.script = lambda number, _: trouble if number in (1, 2) else Reply()
    assert_array_equal(ask_endpoint(TEXTS, server.config(longest_wait_seconds=0.1), cache), expected(TEXTS))
    assert len(server.asked) == 7


def test_what_does_not_pass_ends_after_a_stated_number_of_tries(server: EndpointServer, cache: VectorCache) -> None:
    server.script = lambda *_: Reply(500, body=b"oops")
    with pytest.raises(DataMissing, match=r"no answer after 3 tries \(HTTP 500 oops\); what has arrived is kept"):
        ask_endpoint(TEXTS[:4], server.config(attempts=3, longest_wait_seconds=0.02), cache)
    assert len(server.asked) == 3


def test_a_wait_that_is_too_long_ends_at_once(server: EndpointServer, cache: VectorCache) -> None:
    server.script = lambda *_: Reply(429, {"Retry-After": "86400"}, b"daily limit")
    with pytest.raises(DataMissing, match=r"asks to wait 86400 s \(HTTP 429 daily limit\), longest_wait_seconds is 60"):
        ask_endpoint(TEXTS, server.config(threads=1), cache)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413])
def test_batches_that_are_refused_as_too_large_are_halved(
    server: EndpointServer, cache: VectorCache, status: int
) -> None:
    server.script = lambda _, texts: Reply(status, body=b"too many inputs") if len(texts) > 3 else Reply()
    assert_array_equal(ask_endpoint(TEXTS, server.config(batch_size=16), cache), expected(TEXTS))
    assert sorted(server.answered) == sorted(TEXTS)


def test_a_text_that_is_refused_by_itself_is_an_error(server: EndpointServer, cache: VectorCache) -> None:
    server.script = lambda _, texts: Reply(400, body=b"bad text") if TEXTS[5] in texts else Reply()
    with pytest.raises(DataMissing, match=r"HTTP 400 bad text; check \[text\] url, model, dimensions"):
        ask_endpoint(TEXTS, server.config(threads=1), cache)
    assert len(cache.get([key_of(server, text) for text in TEXTS])) == 5, "its neighbours arrived"


def key_of(server: EndpointServer, text: str) -> bytes:
    return content_key(text, url=f"{server.url}/embeddings", model="text-embedding-3-small", dimensions=None)


CHILD = """
import sys, threading
from pathlib import Path
from offline.recall.text.cache import VectorCache
from offline.recall.text.config import TextConfig
from offline.recall.text.vectors import ask_endpoint
config = TextConfig(source="endpoint", url=sys.argv[1], batch_size=4, threads=1, key_variable="TEST_KEY")
with VectorCache(Path(sys.argv[2])) as cache:
    ask_endpoint(sys.argv[3].split("|"), config, cache)
"""


def test_a_killed_run_is_taken_up_without_asking_again(server: EndpointServer, tmp_path: Path) -> None:
    hung = threading.Event()

    def script(number: int, _: list[str]) -> Reply:
        if number < 3:
            return Reply()
        hung.set()
        return Reply(hang=True)

    server.script = script
    path = tmp_path / "vectors.sqlite"
    child = subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(path), "|".join(TEXTS)])
    try:
        assert hung.wait(120), "the child never came to its fourth request"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    server.released.set()
    before = len(server.asked)
    server.script = lambda *_: Reply()
    with VectorCache(path) as cache:
        assert_array_equal(ask_endpoint(TEXTS, server.config(), cache), expected(TEXTS))
        assert sorted(text for batch in server.asked[before:] for text in batch) == sorted(TEXTS[12:])
        asked = len(server.asked)
        assert_array_equal(ask_endpoint(TEXTS, server.config(), cache), expected(TEXTS))
    assert len(server.asked) == asked, "everything is kept: nothing is asked"


def test_another_model_is_another_vector(server: EndpointServer, cache: VectorCache) -> None:
    ask_endpoint(TEXTS[:4], server.config(), cache)
    ask_endpoint(TEXTS[:4], server.config(model="other"), cache)
    assert [body["model"] for _, _, body in server.requests] == ["text-embedding-3-small", "other"]


def test_the_key_is_sent_and_never_told(
    server: EndpointServer, cache: VectorCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TEST_KEY", f" {KEY}\n")
    server.script = lambda number, _: (
        Reply(500, body=f"bad luck, {KEY}".encode())
        if number == 0
        else Reply(401, body=f"Incorrect key: {KEY}".encode())
    )
    with pytest.raises(DataMissing, match=r"HTTP 401 Incorrect key: \*\*\*; put the key into .* TEST_KEY") as caught:
        ask_endpoint(TEXTS[:4], server.config(longest_wait_seconds=0.01), cache)
    assert server.requests[0][1] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text
    assert KEY not in server.config().model_dump_json()


def test_redirects_are_not_followed_with_the_key(server: EndpointServer, cache: VectorCache) -> None:
    server.script = lambda *_: Reply(307, {"Location": f"{server.url}/elsewhere"}, b"")
    with pytest.raises(DataMissing, match="HTTP 307"):
        ask_endpoint(TEXTS[:4], server.config(), cache)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"error": "none"}, "expected data"),
        ([], "expected data"),
        ({"data": [{"index": 0, "embedding": [1.0]}]}, "expected data"),
        ({"data": [{"index": row, "embedding": [1.0] * (row + 1)} for row in range(2)]}, "expected data"),
        ({"data": [{"index": row, "embedding": 1.0} for row in range(2)]}, r"2 vectors of shape \[\] for 2 texts"),
        ({"data": [{"index": row, "embedding": [1.0]} for row in range(3)]}, "3 vectors of shape"),
        ({"data": [{"index": row, "embedding": [1.0, float("nan")]} for row in range(2)]}, "NaN or infinity"),
    ],
)
def test_answers_that_are_none_are_refused(
    server: EndpointServer, cache: VectorCache, answer: object, found: str
) -> None:
    server.script = lambda *_: Reply(body=json.dumps(answer).encode())
    with pytest.raises(DataMalformed, match=found):
        ask_endpoint(TEXTS[:2], server.config(), cache)
    assert not cache.get([key_of(server, text) for text in TEXTS[:2]])


def test_vectors_of_another_width_are_refused(server: EndpointServer, cache: VectorCache) -> None:
    with pytest.raises(DataMalformed, match="expected 2 of 8 dimensions"):
        ask_endpoint(TEXTS[:2], server.config(dimensions=8), cache)
    cache.put({key_of(server, TEXTS[0]): np.ones(5, np.float32)})
    with pytest.raises(DataMalformed, match="vectors of 3 and 5 dimensions; the model has changed"):
        ask_endpoint(TEXTS[:2], server.config(), cache)


def test_an_endless_answer_is_cut_off(server: EndpointServer, cache: VectorCache) -> None:
    server.script = lambda *_: Reply(body=b" " * (1 << 20))
    with pytest.raises(DataMalformed, match="an answer of more than 524288 bytes for 1 texts"):
        ask_endpoint(TEXTS[:1], server.config(), cache)


def test_nobody_at_the_address_is_said_so(cache: VectorCache) -> None:
    config = TextConfig(
        source="endpoint", url="http://127.0.0.1:9/v1/embeddings", attempts=2, longest_wait_seconds=0.01
    )
    with pytest.raises(DataMissing, match=r"http://127\.0\.0\.1:9/v1/embeddings: no answer after 2 tries"):
        ask_endpoint(TEXTS[:1], config, cache)


def test_a_file_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    path.write_text("my notes, which are long enough to be taken for a header of something else entirely" * 20)
    with pytest.raises(DataError, match="expected the SQLite file of text vectors"):
        VectorCache(path)
    assert path.read_text().startswith("my notes")
