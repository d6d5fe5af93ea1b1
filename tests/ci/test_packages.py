"""The script that installs what tests need leaves the machine's own policy for services alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = "#!/bin/sh\nexit 0\n"
NO_SERVICES = "#!/bin/sh\nexit 101\n"
STUBS = {
    "ldconfig": "",
    "id": "echo 0",
    "apt-get": '[ "$1" = update ] && exit; cat "$POLICY_RC_D" >&2; exit "$APT_EXIT"',
}
"""As on a machine of root's where everything is missing; an installation shows the policy that it finds, on stderr."""


@pytest.mark.parametrize("apt_exit", [0, 100])
@pytest.mark.parametrize(("before", "during"), [(OWN, OWN), (None, NO_SERVICES)])
def test_a_policy_that_is_there_is_kept_and_otherwise_none_stays(
    before: str | None, during: str, apt_exit: int, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    if before is not None:
        policy.write_text(before)
    for name, script in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "POLICY_RC_D": str(policy),
        "APT_EXIT": str(apt_exit),
    }
    finished = subprocess.run([ROOT / ".ci/packages"], env=environment, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (apt_exit, during)
    assert (policy.read_text() if policy.exists() else None) == before
