"""What a gateway recorded and a bundle holds counts once: the manifest says up to where the bundle holds it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.bundle.served import ServedBundle
from gateway.events.sqlite_store import append_events, events_of, log_id, open_events
from gateway.events.store import Event
from offline.commands.cli import main
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow
from recsys.bundle import Bundle
from recsys.domain import EventType
from tests.integration.test_index import START, write_raw
from tests.offline.tastes import DAY, DAYS, dataset_of_tastes

pytestmark = [pytest.mark.integration]

QUICKEST = (
    "--serving.channels=popularity,itemcf",
    "--lightgbm.max-rounds=5",
    "--samples.max-users=60",
    "--split.windows=0.65",
)
END = START + DAYS * DAY
"""Later than everything in the raw files."""
KNOWN, NEWCOMER = "3", "newcomer"

Story = list[tuple[str, int]]
"""Item key and time of each event of a user, oldest first."""


@dataclass(frozen=True)
class Recording:
    """A production bundle, and the events file of the gateway that recorded the last part of what is in it."""

    config: OfflineConfig
    log: str
    last_row: int

    @property
    def bundle(self) -> Bundle:
        store = self.config.store("production")
        return store.open(store.release().current)

    def served(self, user: str) -> Story:
        """The history that the gateway would use."""
        bundle = ServedBundle.load(self.bundle, self.log)
        with closing(open_events(self.config.events_file)) as connection:
            history = bundle.history(bundle.user(None, user), events_of(connection, user, bundle.watermark))
        keys = [bundle.texts.keys[row] for row in bundle.catalogue.rows(history.item_ids)]
        return list(zip(keys, history.timestamps.tolist(), strict=True))


def record(path: Path, user: str, item: str, time: int) -> str:
    """Records a view as the gateway does; returns the log id of the events file."""
    event = Event(f"{user}-{item}-{time}", "", user, item, None, None, EventType.VIEW, None, time, time)
    with closing(open_events(path)) as connection:
        append_events(connection, [[event]])
        return log_id(connection, path)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Views of somebody known and of a newcomer, recorded, appended to the tables and published."""
    root = tmp_path_factory.mktemp("watermarks")
    write_raw(root / "raw")
    arguments = ["--dataset", "tiny", "--data-dir", str(root / "raw"), "--root", str(root / "data"), *QUICKEST]
    config = OfflineConfig.from_arguments(arguments, "test")
    for user, item, time in ((KNOWN, "20", END + 1), (NEWCOMER, "30", END + 2), (KNOWN, "40", END + 3)):
        log = record(config.events_file, user, item, time)
    main(["ingest", "--events", *arguments])
    Workflow(config).publish("production")
    return Recording(config, log, last_row=3)


def test_the_manifest_says_up_to_where_the_bundle_holds_the_log(recording: Recording) -> None:
    manifest = recording.bundle.manifest
    assert manifest.events_watermarks == {recording.log: recording.last_row}
    assert manifest.cutoff == END + 3


def test_every_event_counts_once(recording: Recording) -> None:
    events = dataset_of_tastes().interactions
    mine = events.take(events.user_ids == int(KNOWN))
    raw = zip((mine.item_ids * 10).tolist(), (mine.timestamps + START).tolist(), strict=True)
    known = [*((str(item), time) for item, time in raw), ("20", END + 1), ("40", END + 3)]
    assert recording.served(KNOWN) == known
    assert recording.served(NEWCOMER) == [("30", END + 2)]
    record(recording.config.events_file, KNOWN, "50", END + 4)
    record(recording.config.events_file, NEWCOMER, "50", END + 5)
    assert recording.served(KNOWN) == [*known, ("50", END + 4)]
    assert recording.served(NEWCOMER) == [("30", END + 2), ("50", END + 5)]
