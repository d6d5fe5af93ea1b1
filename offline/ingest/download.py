"""Downloads a published data set: resumes, shows progress, verifies the checksum, and keeps nothing half done."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from offline.ingest.datasets.registry import BASE_URL, PUBLISHED
from recsys.errors import DataMalformed, DataMissing

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 15.0
"""How long a server may be silent: short, so that a machine without network learns it quickly."""
ATTEMPTS = 4
"""How often a transfer that breaks off is taken up again before giving up."""

_FAILURES = (urllib.error.URLError, http.client.HTTPException, OSError)


@dataclass(frozen=True)
class _Job:
    url: str
    target: Path

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    def missing(self, why: object) -> DataMissing:
        """The error, with how to get the file by hand."""
        return DataMissing(
            f"{self.url}: cannot be downloaded ({why}). By hand: download that address in a browser or on another "
            f"machine, put the file at {self.target}, and run this again. What has arrived is kept and taken up again."
        )


def download(name: str, folder: Path, *, base_url: str = BASE_URL) -> Path:
    """Fetches <base_url><name>.zip into `folder` and returns its path; a zip that lies there already is taken as it is.

    Raises DataMissing for an unknown name, or where the server cannot be reached or does not have the file (the message
    explains how to do it by hand); DataMalformed where the checksum is another, and then nothing is kept.
    """
    if name not in PUBLISHED:
        raise DataMissing(f"{name}: not a data set that can be downloaded; these can: {', '.join(PUBLISHED)}")
    if not base_url.startswith(("https://", "http://")):
        raise DataMissing(f"{base_url}: expected an address that begins with https:// or http://")
    job = _Job(f"{base_url.rstrip('/')}/{name}.zip", folder / f"{name}.zip")
    if job.target.is_file():
        return job.target
    folder.mkdir(parents=True, exist_ok=True)
    expected = _published_checksum(job)
    resumed = job.part.exists()
    _transfer(job)
    found = _checksum(job.part)
    if found != expected and resumed:
        job.part.unlink()
        _transfer(job)
        found = _checksum(job.part)
    if found != expected:
        job.part.unlink()
        raise DataMalformed(
            f"{job.url}: the md5 checksum is {found}, expected {expected}; nothing was kept. Run this again; "
            f"if it stays so, something between here and the server changes the file"
        )
    _publish(job)
    return job.target


def _published_checksum(job: _Job) -> str:
    """The md5 that is published next to the file."""
    try:
        with urllib.request.urlopen(f"{job.url}.md5", timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - scheme checked
            text = answer.read(4096).decode("utf-8", "replace")
    except _FAILURES as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise job.missing(f"{job.url}.md5: {error}") from error
    match = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if match is None:
        raise job.missing(f"{job.url}.md5 holds no md5 checksum but {text[:80]!r}")
    return match[0].lower()


def _transfer(job: _Job) -> None:
    """Completes the .part file. Raises DataMissing when it breaks off too often or nothing arrives."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(job.part)
        try:
            if _receive(job):
                return
            failure: object = "the transfer broke off"
        except urllib.error.HTTPError as error:
            error.close()
            raise job.missing(error) from error
        except _FAILURES as error:
            failure = error
        if attempt == ATTEMPTS or _size(job.part) <= before:
            raise job.missing(failure)


def _receive(job: _Job) -> bool:
    """One request, for what is not there yet; whether the file is complete afterwards."""
    have = _size(job.part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        answer = urllib.request.urlopen(  # noqa: S310 - scheme checked
            urllib.request.Request(job.url, headers=headers),  # noqa: S310 - scheme checked
            timeout=TIMEOUT_SECONDS,
        )
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            error.close()
            return True
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            job.part.open("ab" if have else "wb") as stream,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=job.target.name, disable=None) as progress,
        ):
            while data := answer.read(CHUNK_BYTES):
                stream.write(data)
                progress.update(len(data))
    return total is None or _size(job.part) >= total


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _publish(job: _Job) -> None:
    with job.part.open("rb") as stream:
        os.fsync(stream.fileno())
    job.part.replace(job.target)
