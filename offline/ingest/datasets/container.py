"""A data set's files, whether they lie in a folder or in a zip."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from recsys.errors import DataMalformed, DataMissing, DataTruncated


@dataclass(frozen=True)
class DataFile:
    """An opened file: its name for messages, its size in bytes, and a stream at its start."""

    name: str
    size: int
    stream: IO[bytes] | ZipMember


def fingerprint_of(path: Path) -> dict[str, int | str]:
    """Size in bytes and sha256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


class ZipMember(io.RawIOBase):
    """A member of a zip whose damage is reported as DataTruncated."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        super().__init__()
        self._stream = stream
        self._name = name

    def read(self, size: int = -1) -> bytes:
        """Reads up to `size` bytes. Raises DataTruncated where the zip is cut short or a checksum differs."""
        try:
            return self._stream.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataTruncated(f"{self._name}: the zip is damaged ({error}); download it again") from error

    def close(self) -> None:
        """Closes the member."""
        self._stream.close()
        super().close()


class FileContainer:
    """Finds and opens a data set's files in a folder or a .zip, at the top or in a sub folder (as GroupLens has it)."""

    def __init__(self, path: Path) -> None:
        """Raises DataMissing where `path` is neither, DataTruncated where the zip cannot be opened."""
        self.path = path
        if path.is_dir():
            self._names = sorted(
                str(file.relative_to(path)) for pattern in ("*", "*/*") for file in path.glob(pattern) if file.is_file()
            )
        elif path.is_file():
            self._names = self._zip_names()
        else:
            raise DataMissing(f"{path}: no such folder or zip; name a folder or .zip that holds the data set's files")

    def _zip_names(self) -> list[str]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return sorted(name for name in archive.namelist() if not name.startswith("__MACOSX"))
        except zipfile.BadZipFile as error:
            raise DataTruncated(f"{self.path}: not a complete zip ({error}); download it again") from error

    def find(self, name: str) -> str | None:
        """The path inside the container of the file called `name`, the least deep one; None where there is none."""
        found = [path for path in self._names if path.rsplit("/", 1)[-1] == name]
        return min(found, key=lambda path: (path.count("/"), path), default=None)

    def require(self, names: Sequence[str]) -> None:
        """Raises DataMissing unless every file of `names` is there."""
        missing = [name for name in names if self.find(name) is None]
        if missing:
            held = ", ".join(self._names[:12]) or "nothing"
            raise DataMissing(
                f"{self.path}: {', '.join(missing)} missing; found {held}. "
                f"The folder or zip must hold {', '.join(names)}, as the data set's owner ships them"
            )

    @contextmanager
    def open(self, name: str) -> Iterator[DataFile]:
        """Opens the file called `name`. Raises DataMissing, DataTruncated."""
        self.require([name])
        inner = self.find(name)
        assert inner is not None  # noqa: S101 - `require` has just found it
        if self.path.is_dir():
            path = self.path / inner
            with path.open("rb") as stream:
                yield DataFile(str(path), path.stat().st_size, stream)
            return
        label = f"{self.path}!{inner}"
        with zipfile.ZipFile(self.path) as archive:
            try:
                opened = archive.open(inner)
            except zipfile.BadZipFile as error:
                raise DataTruncated(f"{label}: the zip is damaged ({error}); download it again") from error
            except RuntimeError as error:
                raise DataMalformed(f"{label}: cannot be unpacked ({error}); unpack it and name the folder") from error
            with ZipMember(opened, label) as member:
                yield DataFile(label, archive.getinfo(inner).file_size, member)

    def fingerprint(self, names: Sequence[str]) -> Mapping[str, Mapping[str, int | str]]:
        """Size and sha256 of the zip, or of those files of `names` that the folder holds."""
        if not self.path.is_dir():
            return {self.path.name: fingerprint_of(self.path)}
        found = {name: self.find(name) for name in names}
        return {name: fingerprint_of(self.path / inner) for name, inner in found.items() if inner is not None}
