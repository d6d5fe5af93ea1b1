"""`offline download`: a published data set from its owner."""

from __future__ import annotations

import logging

from offline.commands.verb import Verb
from offline.ingest import download as downloading
from offline.workflow.config import OfflineConfig

log = logging.getLogger(__name__)


def download(config: OfflineConfig) -> None:
    """Fetches the data set's zip."""
    log.info("%s is at %s", config.dataset, downloading.download(config.dataset, config.root / "downloads"))


VERB = Verb("download a MovieLens data set from its owner; resumes and verifies", OfflineConfig, download)
