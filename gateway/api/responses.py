"""From an answer to the public messages: titles, keys, reasons and stages."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.bundle.served import ServedBundle
from gateway.pipeline.stages import StageReport, Status
from gateway.pipeline.work import Answer
from recsys.domain import Candidates
from recsys.v1 import recommend_pb2, types_pb2

_STATUS = {status: types_pb2.StageStatus.Value(f"STAGE_STATUS_{status.name}") for status in Status}


def items_to_proto(answer: Answer, bundle: ServedBundle) -> list[recommend_pb2.RecommendedItem]:
    """The items, best first, each with its reasons."""
    texts, ids = bundle.texts, answer.candidates.item_ids
    rows, scores = bundle.catalogue.rows(ids).tolist(), answer.scores.tolist()
    return [
        recommend_pb2.RecommendedItem(
            item_id=item_id, item_key=texts.keys[row], score=score, title=texts.titles[row], reasons=facts
        )
        for item_id, row, score, facts in zip(
            ids.tolist(), rows, scores, reasons(answer.candidates, bundle), strict=True
        )
    ]


def reasons(candidates: Candidates, bundle: ServedBundle) -> list[list[recommend_pb2.Reason]]:
    """Per item, the channels that returned it, best rank first, each with the seed item that it named."""
    present = candidates.seed_present
    seeds = candidates.seed_item_ids[present]
    named = zip(seeds.tolist(), bundle.catalogue.rows(seeds).tolist(), strict=True)
    facts = []
    for ranks, seeded in zip(candidates.ranks.tolist(), present.tolist(), strict=True):
        found = {}
        for column, channel in enumerate(candidates.channels):
            seed, row = next(named) if seeded[column] else (None, -1)
            if ranks[column] > 0:
                found[ranks[column], column] = recommend_pb2.Reason(
                    channel=channel,
                    rank=ranks[column],
                    seed_item_id=seed,
                    seed_title=bundle.texts.titles[row] if row >= 0 else "",
                )
        facts.append([found[key] for key in sorted(found)])
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
