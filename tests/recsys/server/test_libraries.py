"""What a serving process imports: memory and start-up time of every process, and of every worker again."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

EVERYWHERE = {
    *("grpc", "grpc_health", "grpc_reflection", "google", "numpy", "prometheus_client", "uvloop"),
    *("pydantic", "pydantic_core", "pydantic_settings", "annotated_types", "typing_extensions", "typing_inspection"),
    *("dotenv", "grpc_tools"),  # pydantic-settings and grpc import these where they are installed
}
LOADED = """
import json, sys, sysconfig
before = set(sys.modules)
{imports}
installed = sysconfig.get_path("purelib")
new = {{name: str(getattr(module, "__file__", "")) for name, module in sys.modules.items() if name not in before}}
found = {{name.partition(".")[0] for name, file in new.items() if file.startswith(installed)}}
json.dump(sorted(found), sys.stdout)
"""


@pytest.mark.parametrize(
    ("imports", "own"),
    [
        ("import gateway.main", set()),
        ("import rank_server.main", set()),
        ("import recall_server.main, recall_server.channels.popularity, recall_server.channels.itemcf", set()),
        ("import recall_server.main, recall_server.channels.vector", {"onnxruntime", "hnswlib"}),
    ],
)
def test_a_server_imports_no_library_that_it_does_not_need(imports: str, own: set[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LOADED.format(imports=imports)], capture_output=True, check=True, text=True
    )
    found = set(json.loads(run.stdout))
    assert found - EVERYWHERE == own
