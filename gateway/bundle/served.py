"""One bundle version as the gateway serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from gateway.bundle.resolve import Identities, ResolvedId
from gateway.bundle.state import StoredHistories, read_users
from gateway.events.store import RecordedEvent
from gateway.pipeline import fallback
from gateway.pipeline.fallback import Fallback
from gateway.pipeline.rerank import Reranker
from recsys.bundle import Bundle, Manifest
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import History
from recsys.errors import BundleMismatch


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """The gateway's files of one version, loaded. Immutable."""

    manifest: Manifest
    catalogue: Catalogue
    texts: ItemTexts
    identities: Identities
    histories: StoredHistories
    fallback: Fallback
    watermark: int
    """Row id, in this gateway's own log, of the last recorded event that the bundle holds; 0 if it holds none."""
    reranker: Reranker | None = None
    """None if the policy does not re-rank."""

    @classmethod
    def load(cls, bundle: Bundle, log: str) -> Self:
        """Loads the files of role `gateway` from a verified bundle, for a gateway whose events have the log id `log`.

        Raises:
            BundleMismatch, BundleDamaged: the files do not fit together.
        """
        folder = bundle.folder
        catalogue, texts = Catalogue.load(folder), ItemTexts.load(folder)
        if len(texts.titles) != len(catalogue):
            raise BundleMismatch(f"{folder}: {len(catalogue)} items, but {len(texts.titles)} titles; publish again")
        popular = Fallback.open(folder, catalogue)
        unknown = int((catalogue.rows(popular.item_ids) < 0).sum())
        if unknown:
            raise BundleMismatch(
                f"{folder / fallback.FILE}: {unknown} items are not in the catalogue; publish the bundle again"
            )
        identities = Identities.of(read_users(folder), catalogue, texts)
        watermark = bundle.manifest.events_watermarks.get(log, 0)
        rerank = bundle.manifest.policy.rerank
        reranker = Reranker.open(folder, catalogue, rerank) if rerank else None
        histories = StoredHistories.open(folder)
        return cls(bundle.manifest, catalogue, texts, identities, histories, popular, watermark, reranker)

    @property
    def version(self) -> str:
        """The bundle version."""
        return self.manifest.bundle_version

    def user(self, user_id: int | None, user_key: str | None) -> ResolvedId | None:
        """The user with this id or key; None for an anonymous visitor or an id that no user has."""
        if user_key is not None:
            return self.identities.users.of_key(user_key)
        return None if user_id is None else self.identities.users.of_number(user_id)

    def item_row(self, item_id: int) -> int:
        """The catalogue row of an item, -1 if the bundle does not know it."""
        return int(self.catalogue.rows(np.asarray([item_id], np.int64))[0])

    def history(self, user: ResolvedId | None, recorded: tuple[RecordedEvent, ...]) -> History:
        """The stored events of a user and those recorded since the bundle was published, in stable order of time."""
        stored = History.empty() if user is None or user.id is None else self.histories.of(user.id)
        return stored.then(self._since(recorded)) if recorded else stored

    def _since(self, recorded: tuple[RecordedEvent, ...]) -> History:
        """Recorded events that the bundle does not hold yet, of items that it knows."""
        items = [(event, self.identities.items.of_key(event.item_key).id) for event in recorded]
        known = [(event, item_id) for event, item_id in items if item_id is not None and event.row_id > self.watermark]
        history = History.of(
            [item_id for _, item_id in known],
            [event.time for event, _ in known],
            types=[event.type for event, _ in known],
            values=[float("nan") if event.value is None else event.value for event, _ in known],
        )
        return history.take(self.catalogue.rows(history.item_ids) >= 0)

    def as_of(self, history: History, now: int) -> int:
        """The time of a request without as_of, by the policy's clock: now, or the later of cut-off and last event."""
        if self.manifest.policy.serving_clock == "wall":
            return now
        latest = int(history.timestamps[-1]) if len(history) else self.manifest.cutoff
        return max(self.manifest.cutoff, latest)
