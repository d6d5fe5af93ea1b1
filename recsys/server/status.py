"""From the exception tree to gRPC status codes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc

from recsys import errors

GRPC_CODES: Mapping[type[errors.RecsysError], grpc.StatusCode] = MappingProxyType(
    {
        errors.RecsysError: grpc.StatusCode.INTERNAL,
        errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
        errors.NotFound: grpc.StatusCode.NOT_FOUND,
        errors.BundleError: grpc.StatusCode.FAILED_PRECONDITION,
        errors.BundleMissing: grpc.StatusCode.FAILED_PRECONDITION,
        errors.NotReady: grpc.StatusCode.UNAVAILABLE,
        errors.BundleDamaged: grpc.StatusCode.FAILED_PRECONDITION,
        errors.BundleMismatch: grpc.StatusCode.FAILED_PRECONDITION,
        errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
        errors.Unreachable: grpc.StatusCode.UNAVAILABLE,
        errors.ContractBroken: grpc.StatusCode.INTERNAL,
        errors.CannotStart: grpc.StatusCode.INTERNAL,
        errors.DataError: grpc.StatusCode.INTERNAL,
        errors.DataMissing: grpc.StatusCode.INTERNAL,
        errors.DataTruncated: grpc.StatusCode.INTERNAL,
        errors.DataMalformed: grpc.StatusCode.INTERNAL,
    }
)
"""The code of every class of the tree; subclasses elsewhere take the code of their nearest ancestor here."""


def code_of(error: errors.RecsysError) -> grpc.StatusCode:
    """The status code that a caller gets for `error`."""
    return next(GRPC_CODES[kind] for kind in type(error).__mro__ if kind in GRPC_CODES)
