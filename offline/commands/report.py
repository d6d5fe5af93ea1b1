"""`offline report`: item and user vectors, for people.

What it draws with is imported when it is run, so that no other verb needs or waits for it.
"""

from __future__ import annotations

from offline.commands.verb import Verb
from offline.studies.report.config import ReportConfig
from recsys.errors import CannotStart


def report(config: ReportConfig) -> None:
    """Writes the report of the current bundle. Raises CannotStart where matplotlib is not installed."""
    try:
        from offline.studies.report.job import write_report
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"{error.name} is not installed, the report's pictures need it; run `pip install 'recsys-serving[bench]'`"
        ) from error
    store = config.store(config.purpose)
    write_report(store.open(store.release().current), config.folder or config.home / "report", config)


VERB = Verb(ReportConfig, report)
