"""All faults, by name."""

from __future__ import annotations

from tests.faults import callers, clock, disks, files, signals
from tests.faults.contract import Fault

FAULTS: dict[str, Fault] = {
    fault.name: fault for module in (signals, disks, files, callers, clock) for fault in module.FAULTS
}
