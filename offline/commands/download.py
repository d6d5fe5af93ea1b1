"""`offline download`: a published data set from its owner."""

from __future__ import annotations

import logging

from offline.commands.verb import Verb
from offline.ingest import download as downloading
from offline.workflow.config import OfflineConfig

log = logging.getLogger(__name__)


class DownloadConfig(OfflineConfig):
    """Download a MovieLens data set from its owner; resumes and verifies."""

    main_settings = (
        "dataset",
        "root",
        "config",
    )


def download(config: DownloadConfig) -> None:
    """Fetches the data set's zip."""
    log.info("%s is at %s", config.dataset, downloading.download(config.dataset, config.root / "downloads"))


VERB = Verb(DownloadConfig, download)
