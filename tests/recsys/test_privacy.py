"""Nothing that a process does reaches out by itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SPY = """
import importlib, importlib.abc, os, sys

class Spy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("telemetry disabled:", os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Spy())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", ["rank_server.onnx_graph", "recall_server.channels.vector"])
@pytest.mark.parametrize(("set_by_user", "found"), [(None, "1"), ("0", "0")])
def test_onnx_runtime_is_kept_from_sending_data_before_it_is_imported(
    module: str, set_by_user: str | None, found: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    if set_by_user is not None:
        environment["ORT_DISABLE_TELEMETRY"] = set_by_user
    command = [sys.executable, "-c", SPY, module]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed == f"telemetry disabled: {found}\n"
