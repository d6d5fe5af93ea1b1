"""A client of any OpenAI-compatible `/v1/embeddings` endpoint: `POST {"model", "input": [...]}`.

Written on the standard library, as `offline.ingest.download` is: one kind of request needs no further package, and
retries, which every package does otherwise, are ours to bound and to test. The key comes from an environment variable,
is sent to the configured address only (redirects are not followed) and appears in no message.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from offline.recall.text.config import TextConfig
from recsys.errors import DataError, DataMalformed, DataMissing

log = logging.getLogger(__name__)

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504, 529})
TOO_LARGE = frozenset({400, 413, 422})
"""What endpoints answer when a request has too many or too long texts, among other things."""
FIRST_WAIT = 0.5
MAX_BYTES_PER_TEXT = 1 << 18
"""Eight thousand numbers of 32 characters: an answer that is longer is none."""

_BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)


class Pace:
    """The moment before which no thread sends: a wait asked of one holds for all."""

    def __init__(self) -> None:
        self._lock, self._not_before = threading.Lock(), 0.0

    def hold(self, seconds: float) -> None:
        """Nobody sends for `seconds` from now."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def wait(self, stopped: threading.Event) -> None:
        """Returns when sending is allowed, or nothing more is to be sent."""
        while (left := self._not_before - time.monotonic()) > 0 and not stopped.wait(left):
            pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Retry(Exception):
    """A failure that may pass; `wait` is how many seconds the endpoint asks for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.why, self.wait = why, wait


class Stopped(Exception):
    """Nothing was sent, because another request has failed."""


class TooLarge(Exception):
    """The endpoint refused a request in a way that fewer texts may cure; whoever made the batch halves it."""


class EmbeddingClient:
    """Asks an endpoint for vectors; safe for threads."""

    def __init__(self, config: TextConfig, stopped: threading.Event) -> None:
        """Once `stopped` is set, nothing more is sent; a failure that does not pass sets it."""
        self.url = config.url.rstrip("/").removesuffix("/embeddings") + "/embeddings"
        self._config, self._stopped, self._pace = config, stopped, Pace()
        self._key = os.environ.get(config.key_variable, "").strip()
        self._opener = urllib.request.build_opener(_NoRedirect)
        if self._key and self.url.startswith("http://"):
            log.warning("%s: the key is sent without encryption; use https outside this machine", self.url)

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[texts, d], in their order.

        Raises TooLarge where fewer texts may be accepted, DataMissing where the endpoint cannot be used or does not
        recover, DataMalformed where it answers something else, Stopped where another request failed so.
        """
        try:
            return self._tried(texts)
        except DataError:
            self._stopped.set()
            raise

    def _tried(self, texts: Sequence[str]) -> NDArray[np.float32]:
        for attempt in range(1, self._config.attempts + 1):
            self._pace.wait(self._stopped)
            if self._stopped.is_set():
                raise Stopped
            try:
                return self._checked(self._ask(texts), len(texts))
            except _Retry as failure:
                self._prepare_retry(failure, attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _prepare_retry(self, failure: _Retry, attempt: int) -> None:
        """Waits as asked, or twice as long as before with a random share, so that threads do not come back at once."""
        again = "; what has arrived is kept; run the same command again to continue"
        if attempt == self._config.attempts:
            raise DataMissing(f"{self.url}: no answer after {attempt} tries ({failure.why}){again}")
        longest = self._config.longest_wait_seconds
        if failure.wait is not None and failure.wait > longest:
            raise DataMissing(
                f"{self.url}: asks to wait {failure.wait:.0f} s ({failure.why}), longest_wait_seconds is {longest:g}"
                f"{again}"
            )
        log.info("%s: %s; try %d of %d follows", self.url, failure.why, attempt + 1, self._config.attempts)
        if failure.wait is not None:
            self._pace.hold(failure.wait)
            return
        wait = min(FIRST_WAIT * 2 ** (attempt - 1), longest)
        self._stopped.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311

    def _ask(self, texts: Sequence[str]) -> Any:
        body: dict[str, Any] = {"model": self._config.model, "input": list(texts), "encoding_format": "float"}
        if self._config.dimensions is not None:
            body["dimensions"] = self._config.dimensions
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310
        try:
            with self._opener.open(request, timeout=self._config.timeout_seconds) as answer:
                return self._content(answer, len(texts))
        except urllib.error.HTTPError as error:
            raise self._refusal(error, len(texts)) from None
        except _BROKEN as error:
            raise _Retry(f"the connection broke: {self._without_key(str(error))}") from error

    def _content(self, answer: IO[bytes], n: int) -> Any:
        max_bytes = (n + 1) * MAX_BYTES_PER_TEXT
        data = answer.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise DataMalformed(
                f"{self.url}: an answer of more than {max_bytes} bytes for {n} texts; check url and model"
            )
        try:
            return json.loads(data)
        except ValueError:
            raise _Retry(f"the answer is not JSON but begins with {self._without_key(repr(data[:60]))}") from None

    def _refusal(self, error: urllib.error.HTTPError, n: int) -> Exception:
        """What an error status means: try again, send less, or give up."""
        try:
            detail = error.read(2_000).decode("utf-8", "replace")
        except _BROKEN:
            detail = ""
        why = f"HTTP {error.code} {' '.join(self._without_key(detail).split())[:300]}".strip()
        if error.code in TRANSIENT:
            return _Retry(why, _seconds(error.headers.get("Retry-After")))
        if error.code in TOO_LARGE and n > 1:
            return TooLarge(f"{self.url}: {why}")
        if error.code in (401, 403):
            return DataMissing(
                f"{self.url}: {why}; put the key into the environment variable {self._config.key_variable}"
            )
        return DataMissing(f"{self.url}: {why}; check [text] url, model, dimensions and max_characters")

    def _checked(self, answer: Any, n: int) -> NDArray[np.float32]:
        """The vectors of an answer in the order of the texts. Raises DataMalformed."""
        try:
            found = {int(entry["index"]): entry["embedding"] for entry in answer["data"]}
            vectors = np.asarray([found[row] for row in range(n)], np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise DataMalformed(
                f"{self.url}: expected data[i].index and data[i].embedding for each of {n} texts ({error!r}); "
                "check that url is an OpenAI-compatible embeddings endpoint"
            ) from None
        wanted = self._config.dimensions
        if vectors.ndim != 2 or len(found) != n or (wanted and vectors.shape[1] != wanted):
            raise DataMalformed(
                f"{self.url}: {len(found)} vectors of shape {list(vectors.shape[1:])} for {n} texts, expected "
                f"{n} of {wanted or 'one'} dimensions; check model and dimensions"
            )
        if not np.isfinite(vectors).all():
            raise DataMalformed(f"{self.url}: a vector holds NaN or infinity; check the model")
        return vectors

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _seconds(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date; None where it says nothing."""
    if header is None:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((aware - datetime.now(UTC)).total_seconds(), 0.0)
