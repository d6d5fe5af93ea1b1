"""Writes the report of a bundle: one folder with report.md, report.html and the pictures they show."""

from __future__ import annotations

import logging
from pathlib import Path

from offline.studies.report import sections
from offline.studies.report.config import ReportConfig
from offline.studies.report.embeddings import Embeddings
from offline.studies.report.maps import ItemMap
from offline.studies.report.page import write_page
from recsys.bundle import Bundle

log = logging.getLogger(__name__)


def write_report(bundle: Bundle, folder: Path, config: ReportConfig) -> None:
    """Everything that the report shows of `bundle`; equal bundles and settings give equal tables."""
    embeddings = Embeddings.load(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    points = ItemMap.of(embeddings, config)
    shown = [
        sections.overview(embeddings, bundle, config),
        sections.neighbours(embeddings, config),
        points.section(embeddings, folder, config),
        sections.lengths(embeddings, folder),
        sections.pair_similarity(embeddings, folder, config),
        sections.groups(embeddings, folder, config),
        points.cold_section(embeddings, folder, config),
    ]
    write_page(folder, f"Embeddings of {bundle.manifest.dataset}, bundle {bundle.version}", shown)
    log.info("report: %s, and report.html next to it", folder / "report.md")
