"""What verbs print for people: results on standard output, progress in the log."""

from __future__ import annotations

import logging
import sys

from offline.publish.publish import REPORT_FOLDER
from offline.steps.workspace import Step

log = logging.getLogger(__name__)


def say(text: str) -> None:
    """Writes a line, or several, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_report(report: Step) -> None:
    """Prints the table of an evaluation and logs where the whole report is."""
    folder = report.folder / REPORT_FOLDER
    say((folder / "table.txt").read_text("utf-8").rstrip())
    log.info("the whole report, with intervals, is in %s", folder)
