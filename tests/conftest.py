from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No limit to the time of an example: machines pause. With CI set the same examples every time, otherwise new ones.
settings.register_profile("local", settings.get_profile("ci"), derandomize=False)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of this suite."""
    parser.addoption("--long", action="store_true", help="run the tests marked long, and no others")
    parser.addoption(
        "--small-system",
        metavar="FOLDER",
        help="where the integration tests train their small system; a later run with the same folder continues there",
    )


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in the developer's environment must not change what a test sees."""
    for name in list(os.environ):
        if name.upper().startswith("RECSYS"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A test that sets up the logs of a process leaves none of it behind."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def checkerboard_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one published bundle of the checkerboard. Tests that publish work on a copy."""
    from tests.published import publish_checkerboard

    root = tmp_path_factory.mktemp("checkerboard") / "bundles"
    publish_checkerboard(root)
    return root


NEEDS_SHARED = "shared/data"
"""Part of the reason of a test that lacks the real data next to the checkout."""

SHARED = Path(__file__).parents[2] / "shared"
"""What is next to the checkout on some machines only."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the long tests, or with `--long` all others.

    Files that take long come first, so that no process is left with one of them when the others have finished.
    """
    kept, left_out = [], []
    for item in items:
        (kept if (item.get_closest_marker("long") is not None) == config.option.long else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    of_marker = {
        marker: {item.path for item in items if item.get_closest_marker(marker)} for marker in ("slow", "integration")
    }
    items.sort(key=lambda item: [item.path not in files for files in of_marker.values()])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true a skipped test is a failure, unless what it needs is `../shared` and that is absent."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if NEEDS_SHARED not in reason or SHARED.exists():
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: skipped, and with CI=true that is a failure: {reason}"
    return report
