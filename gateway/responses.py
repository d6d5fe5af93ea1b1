"""From an answer to the public messages: titles, keys, reasons and stages."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.pipeline import Answer
from gateway.served import ServedBundle
from gateway.stages import StageReport, Status
from recsys.domain import Candidates
from recsys.v1 import recommend_pb2, types_pb2

_STATUS = {status: types_pb2.StageStatus.Value(f"STAGE_STATUS_{status.name}") for status in Status}


def items_to_proto(answer: Answer, bundle: ServedBundle) -> list[recommend_pb2.RecommendedItem]:
    """The items, best first, each with the facts of how it was found."""
    rows = bundle.catalogue.rows(answer.candidates.item_ids).tolist()
    scores = answer.scores.tolist()
    return [
        recommend_pb2.RecommendedItem(
            item_id=item_id,
            item_key=bundle.texts.keys[rows[position]],
            score=scores[position],
            title=bundle.texts.titles[rows[position]],
            reasons=reasons(answer.candidates, position, bundle),
        )
        for position, item_id in enumerate(answer.candidates.item_ids.tolist())
    ]


def reasons(candidates: Candidates, position: int, bundle: ServedBundle) -> list[recommend_pb2.Reason]:
    """The channels that returned the item, best place first; the one that named a seed item carries it."""
    ranks = candidates.ranks[position].tolist()
    named = [
        (rank, name, column)
        for column, (name, rank) in enumerate(zip(candidates.channels, ranks, strict=True))
        if rank > 0
    ]
    facts = []
    for rank, name, column in sorted(named):
        reason = recommend_pb2.Reason(channel=name, rank=rank)
        if candidates.seed_channel[position] == column:
            reason.seed_item_id = int(candidates.seed_item_ids[position])
            row = bundle.item_row(reason.seed_item_id)
            reason.seed_title = bundle.texts.titles[row] if row >= 0 else ""
        facts.append(reason)
    return facts


def stages_to_proto(stages: Sequence[StageReport]) -> list[types_pb2.Stage]:
    """The reports of the stages, in order."""
    return [
        types_pb2.Stage(
            name=stage.name,
            status=_STATUS[stage.status],
            cause=stage.cause,
            microseconds=stage.microseconds,
            candidates_in=stage.candidates_in,
            candidates_out=stage.candidates_out,
            bundle_version=stage.bundle_version,
        )
        for stage in stages
    ]
