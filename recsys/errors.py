"""The one exception tree of the project.

    RecsysError
    ├── InvalidRequest        the caller's input is wrong                   INVALID_ARGUMENT
    ├── NotFound              the thing requested does not exist            NOT_FOUND
    ├── BundleError           a bundle cannot be served                     FAILED_PRECONDITION
    │   ├── BundleMissing     there is none, or not the requested version   FAILED_PRECONDITION
    │   │   └── NotReady      no bundle is loaded, perhaps not yet          UNAVAILABLE
    │   ├── BundleDamaged     a file is absent, truncated or changed        FAILED_PRECONDITION
    │   └── BundleMismatch    another format, channel, dimension or answer  FAILED_PRECONDITION
    ├── Overloaded            more work is waiting than can be done in time RESOURCE_EXHAUSTED
    ├── DeadlinePassed        the request's budget is used up               DEADLINE_EXCEEDED
    ├── Unreachable           another process does not answer               UNAVAILABLE
    ├── ContractBroken        a component broke its own contract            INTERNAL
    ├── CannotStart           wrong configuration, or a port that is taken  (exit code 2)
    └── DataError             offline input cannot be used                  (exit code 2)
        ├── DataMissing       a folder, file or column is missing
        ├── DataTruncated     an incomplete last line, a truncated zip
        └── DataMalformed     an unparseable line, a wrong separator or encoding

`recsys.server.status.GRPC_CODES` maps the tree to status codes; a test walks the tree and demands a code for every
class.
Messages name what was found, what was expected and what to do.
"""

from __future__ import annotations


class RecsysError(Exception):
    """Base of every error that this project raises on purpose."""


class InvalidRequest(RecsysError):
    """The caller's input is wrong; the message names the field, what was found and what is allowed."""


class NotFound(RecsysError):
    """The thing requested does not exist in the served bundle."""


class BundleError(RecsysError):
    """A bundle cannot be served; the message names the file and the remedy."""


class BundleMissing(BundleError):
    """There is no bundle, or not the requested version."""


class NotReady(BundleMissing):
    """The process has no bundle to serve, perhaps not yet; another one may have."""


class BundleDamaged(BundleError):
    """A file of the bundle is absent, truncated or does not match its checksum."""


class BundleMismatch(BundleError):
    """The bundle has another format, channel, dimension or answer than this process expects."""


class Overloaded(RecsysError):
    """More work is waiting than the process can do in time."""

    def __init__(self, message: str, *, retry_seconds: float | None = None) -> None:
        """`retry_seconds`: after which time the same call may be admitted; None: not known."""
        super().__init__(message)
        self.retry_seconds = retry_seconds


class DeadlinePassed(RecsysError):
    """The time budget of the request is used up."""


class Unreachable(RecsysError):
    """Another process does not answer."""


class ContractBroken(RecsysError):
    """A component returned what its contract forbids (wrong length, NaN score, repeated id)."""


class CannotStart(RecsysError):
    """A process cannot start as configured; the message names the setting or the port."""


class DataError(RecsysError):
    """Offline input cannot be used; the message names file, line, what was found and what to do."""


class DataMissing(DataError):
    """A required folder, file or column is missing."""


class DataTruncated(DataError):
    """A file ends too early: an incomplete last line, or a truncated zip."""


class DataMalformed(DataError):
    """A line, separator or encoding is not what the format says."""
