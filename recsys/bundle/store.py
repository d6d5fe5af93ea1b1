"""Where bundles live: one folder per version, and `CURRENT`, which names the released one and the one before it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from recsys.bundle.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest
from recsys.errors import BundleDamaged, BundleMismatch, BundleMissing

RELEASE_FILE = "CURRENT"
VERSION_PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Release:
    """The released version and the one before it. Both names are in one file, so they change in one rename."""

    current: str
    previous: str | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """One opened bundle: a folder and its manifest. Opening reads the manifest only; `verify` reads the files."""

    folder: Path
    manifest: Manifest

    @property
    def version(self) -> str:
        """The bundle version, equal to the folder's name."""
        return self.manifest.bundle_version

    def path(self, relative: str) -> Path:
        """The path of a file that the manifest lists."""
        if relative not in self.manifest.files:
            raise BundleMismatch(f"{self.folder}: the manifest lists no {relative}; publish the bundle again")
        return self.folder / relative

    def has(self, relative: str) -> bool:
        """Whether the manifest lists the file."""
        return relative in self.manifest.files

    def verify(self, role: str) -> None:
        """Checks presence, size and sha256 of every file of `role`.

        Raises:
            BundleMismatch: the bundle has no such role.
            BundleDamaged: a file is absent, of another size, or changed; the message names it.
        """
        if role not in self.manifest.roles:
            known = ", ".join(sorted(self.manifest.roles))
            raise BundleMismatch(f"{self.folder}: no files for role {role!r}, only for {known}")
        for relative in self.manifest.roles[role]:
            self._verify_file(relative)

    def _verify_file(self, relative: str) -> None:
        expected, path = self.manifest.files[relative], self.folder / relative
        remedy = "publish a new bundle or roll back with `python -m offline rollback`"
        if not path.is_file():
            raise BundleDamaged(f"{path}: missing, although the manifest lists it; {remedy}")
        size = path.stat().st_size
        if size != expected.bytes:
            raise BundleDamaged(f"{path}: {size} bytes, but the manifest says {expected.bytes}; {remedy}")
        found = sha256_of(path)
        if found != expected.sha256:
            raise BundleDamaged(
                f"{path}: sha256 {found[:12]}…, but the manifest says {expected.sha256[:12]}…, "
                f"so the file was changed; {remedy}"
            )


class BundleStore:
    """A folder of bundles, `root/<version>/`, with `root/CURRENT`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def release(self) -> Release:
        """The contents of `CURRENT`.

        Raises:
            BundleMissing: nothing has been published here.
            BundleDamaged: the file does not look like one that `write_release` writes.
        """
        path = self.root / RELEASE_FILE
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return Release(_version(fields["current"]), _version(fields["previous"]) if fields["previous"] else None)
        except FileNotFoundError:
            raise BundleMissing(
                f"{path}: no bundle was published here; run `python -m offline run`, or set the bundle root"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise BundleDamaged(
                f'{path}: expected {{"current": VERSION, "previous": VERSION or null}} ({error}); publish again'
            ) from error

    def write_release(self, release: Release) -> None:
        """Replaces `CURRENT` atomically and durably."""
        text = json.dumps({"current": release.current, "previous": release.previous}) + "\n"
        temporary = self.root / f".{RELEASE_FILE}.{os.getpid()}"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.root / RELEASE_FILE)
        fsync_folder(self.root)

    def versions(self) -> list[str]:
        """Versions on disk, by name; incomplete ones have a leading dot and are not listed."""
        if not self.root.is_dir():
            return []
        folders = [manifest.parent.name for manifest in self.root.glob(f"*/{MANIFEST_FILE}")]
        return sorted(name for name in folders if not name.startswith("."))

    def open(self, version: str) -> Bundle:
        """Opens one version by reading its manifest.

        Raises:
            BundleMissing: the version is not on disk.
            BundleDamaged: the manifest cannot be read.
            BundleMismatch: another format version, or a manifest of another bundle.
        """
        folder = self.root / _version(version)
        try:
            text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            held = ", ".join(self.versions()) or "nothing"
            raise BundleMissing(f"{folder}: no bundle {version} on disk, only {held}") from None
        except (UnicodeDecodeError, OSError) as error:
            raise BundleDamaged(f"{folder / MANIFEST_FILE}: unreadable ({error}); publish again") from error
        return Bundle(folder, parse_manifest(text, folder, version))


def parse_manifest(text: str, folder: Path, version: str) -> Manifest:
    """Parses a manifest, the format version first, so that an older or newer format is reported as such."""
    path = folder / MANIFEST_FILE
    try:
        found = json.loads(text).get("format_version")
    except (ValueError, AttributeError) as error:
        raise BundleDamaged(f"{path}: not a JSON object ({error}); publish again") from error
    if found != FORMAT_VERSION:
        raise BundleMismatch(
            f"{path}: bundle format {found}, but this software reads format {FORMAT_VERSION}; "
            "publish again with this version, or run the version that wrote it"
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleDamaged(f"{path}: {where}: {first['msg']}; publish again") from error
    if manifest.bundle_version != version:
        raise BundleMismatch(
            f"{path}: the manifest of {manifest.bundle_version}, in the folder of {version}; publish again"
        )
    return manifest


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(text: object) -> str:
    """Refuses version names that could lead out of the root."""
    if not isinstance(text, str) or not VERSION_PATTERN.match(text):
        raise BundleMissing(f"bundle version {text!r}: expected 1 to 128 letters, digits, dots, dashes or underscores")
    return text
