"""A new item enters a published bundle without training: found by what describes it, and nothing else changes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import grpc
import numpy as np
import pytest

from gateway.bundle.gateway_golden import check_gateway
from gateway.bundle.state import StoredHistories
from gateway.pipeline.fallback import Fallback
from gateway.pipeline.rerank import BONUS_FILE
from offline.commands.cli import main
from offline.dataset.ids import FIRST_ASSIGNED
from offline.evaluation.replay import active_version
from offline.local.serve import served
from offline.publish.publish import INDEX_FILE
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow
from rank_server.scoring import Ranker
from recall_server.channels.registry import channel_class
from recsys.bundle import Bundle
from recsys.bundle.golden import check_rank, check_recall
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import Candidates, History, Ids, ItemFilter, RankQuery, RecallQuery
from recsys.v1 import types_pb2
from recsys.v1.recommend_pb2 import RecommendRequest, RecommendResponse
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub
from tests.integration.work import finished_steps, stages
from tests.offline.tastes import DAY, ITEMS, dataset_of_tastes
from tests.waiting import eventually

pytestmark = [pytest.mark.integration]

CHANNELS = ("popularity", "itemcf", "vector", "als", "content")
SETTINGS = (
    "--serving.channels=popularity,itemcf,vector,als,content",
    "--two-tower.tower=sequence",
    "--two-tower.sequence.text",
    "--two-tower.sequence.size=16",
    "--two-tower.sequence.epochs=8",
    "--two-tower.sequence.patience=8",
    "--two-tower.sequence.events=96",
    "--two-tower.sequence.learning-rate=0.02",
    "--two-tower.sequence.averaging=0.5",
    "--two-tower.sequence.id-dropout=0.3",
    "--als.factors=8",
    "--lightgbm.max-rounds=5",
    "--ranker.kind=blend",
    "--ranker.candidates=lightgbm,svd",
    "--samples.svd-rating",
    "--samples.max-users=60",
    "--split.windows=0.65",
    "--bootstrap.resamples=20",
    "--serving.clock=cutoff",
    "--rerank.exposure=1.5",
    "--rerank.users=60",
)
WESTERNS = ITEMS // 2
START = 1_600_000_000
DRAMA = ("Drama", "Ann Weeper", "a family in tears")
WESTERN = ("Western", "Bill Rider", "a drifter rides into a dusty town")
"""Genre, director and overview of every film of either kind."""
BETWEEN = 15
"""A number between those of old items, which are multiples of ten."""


def write_raw(folder: Path) -> None:
    """The world of tastes as own interactions, with room between the numbers of items: odd ones are dramas."""
    world = dataset_of_tastes()
    folder.mkdir()
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "timestamp", "rating"))
        events = world.interactions
        columns = (events.user_ids, events.item_ids * 10, events.timestamps + START, events.values)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "title", "genres", "year", "directors", "overview"))
        for row, item in enumerate(world.items.item_ids.tolist()):
            genre, director, words = DRAMA if item % 2 else WESTERN
            writer.writerow((item * 10, f"Film {item}", genre, int(world.items.years[row]), director, words))


def add_items(file: Path, *rows: tuple[object, ...]) -> None:
    with file.open("a", newline="") as opened:
        csv.writer(opened).writerows(rows)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A published production bundle of the world of tastes with every channel; the arguments of all verbs for it."""
    root = tmp_path_factory.mktemp("index")
    write_raw(root / "raw")
    given = ["--dataset", "tiny", "--data-dir", str(root / "raw"), "--root", str(root / "data"), *SETTINGS]
    Workflow(OfflineConfig.from_arguments(given, "test")).publish("production")
    return given


@pytest.fixture(scope="module")
def config(arguments: list[str]) -> OfflineConfig:
    return OfflineConfig.from_arguments(arguments, "test")


@pytest.fixture(scope="module")
def before(config: OfflineConfig) -> Bundle:
    return released(config)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of items added to the data set's: one of which nothing is known."""
    file = tmp_path_factory.mktemp("others") / "new.csv"
    file.write_text("id,title\nsilent,Untold\n", "utf-8")
    return file


@pytest.fixture(scope="module")
def after(before: Bundle, config: OfflineConfig, arguments: list[str], others: Path) -> Bundle:
    """The same with three new items: two described ones in the raw file, one of which nothing is known in another."""
    assert config.data_dir is not None
    add_items(
        config.data_dir / "items.csv",
        (BETWEEN, "The Lonesome Saddle", WESTERN[0], 1965, *WESTERN[1:]),
        ("brand-new", "The Crying Doll", f"{DRAMA[0]}|Puppetry", 1985, "Nobody Known", "a doll in tears"),
    )
    done = finished_steps(config.home).keys()
    main(["index", *arguments, "--items-file", str(others)])
    assert stages(finished_steps(config.home).keys() - done) == {"index", "text"}, "nothing is trained"
    return released(config)


def released(config: OfflineConfig) -> Bundle:
    store = config.store("production")
    return store.open(store.release().current)


def histories(bundle: Bundle, n: int = 12) -> list[History]:
    stored = StoredHistories.open(bundle.folder)
    return [*(stored.of(int(user)) for user in stored.user_ids[:n]), History.empty()]


def everything(bundle: Bundle, channel: str, history: History, **fields: object) -> dict[int, float]:
    """Score by item id of all that a channel knows to say."""
    query = RecallQuery(history, bundle.manifest.cutoff, 2_000, **fields)  # type: ignore[arg-type]
    (result,) = channel_class(channel).load(bundle).recall([query])
    return dict(zip(result.item_ids.tolist(), result.scores.tolist(), strict=True))


def fan_of(bundle: Bundle, genre: str) -> History:
    """Somebody who took five films of one genre, at the pace of this world."""
    catalogue = Catalogue.load(bundle.folder)
    ids: Ids = catalogue.item_ids[catalogue.genres[:, catalogue.genre_columns[genre]]][:5]
    times = bundle.manifest.cutoff - np.arange(4, -1, -1) * 10 * DAY
    return History(ids, times.astype(np.int64), np.ones(5, np.int8), np.full(5, 5, np.float32))


def new_ids(before: Bundle, after: Bundle) -> list[int]:
    return np.setdiff1d(Catalogue.load(after.folder).item_ids, Catalogue.load(before.folder).item_ids).tolist()


def test_the_items_are_in_the_catalogue_with_numbers_for_good(before: Bundle, after: Bundle) -> None:
    assert new_ids(before, after) == [BETWEEN, FIRST_ASSIGNED, FIRST_ASSIGNED + 1]
    catalogue, texts = Catalogue.load(after.folder), ItemTexts.load(after.folder)
    assert catalogue.rows(np.asarray([BETWEEN])).tolist() == [1], "old items move to make room"
    assert (list(texts.keys)[-2:], list(texts.titles)[-2:]) == (["brand-new", "silent"], ["The Crying Doll", "Untold"])
    assert "Puppetry" in catalogue.genre_names
    facts = json.loads((after.folder / INDEX_FILE).read_text("utf-8"))
    assert facts["indexed"] == before.version
    assert list(facts["new_items"]) == [str(BETWEEN), "brand-new", "silent"]


def test_they_are_found_by_those_who_like_what_they_are(before: Bundle, after: Bundle) -> None:
    western, drama = fan_of(before, "Western"), fan_of(before, "Drama")
    for channel in ("content", "vector"):
        by_western, by_drama = (everything(after, channel, history) for history in (western, drama))
        assert by_western[BETWEEN] > by_western[FIRST_ASSIGNED], channel
        assert by_drama[FIRST_ASSIGNED] > by_drama[BETWEEN], channel
        assert list(by_western).index(BETWEEN) < WESTERNS + 1, f"{channel}: among those of the genre"
        assert list(by_drama).index(BETWEEN) > WESTERNS - 1, f"{channel}: not among those of the other"


def test_old_scores_are_as_they_were(before: Bundle, after: Bundle) -> None:
    fresh = set(new_ids(before, after))
    for history in histories(before):
        for channel in ("popularity", "itemcf", "als"):
            old, new = (everything(bundle, channel, history) for bundle in (before, after))
            assert {item: score for item, score in new.items() if item not in fresh} == old, channel
            assert all(new.get(item, 0.0) == 0.0 for item in fresh), channel
        old, new = (everything(bundle, "vector", history) for bundle in (before, after))
        shifts = np.asarray([new[item] - score for item, score in old.items()])
        assert np.ptp(shifts) < 1e-4, "by vectors all old items move by one amount, if at all"
        western = ItemFilter(genres_any=("Western",))
        old, new = (everything(bundle, "itemcf", history, item_filter=western) for bundle in (before, after))
        assert old == new


def test_the_ranker_scores_old_items_as_before_and_new_ones_finitely(before: Bundle, after: Bundle) -> None:
    old_ids = Catalogue.load(before.folder).item_ids[::4]
    asked = np.append(old_ids, new_ids(before, after))
    rankers = [Ranker.load(bundle) for bundle in (before, after)]
    for history in histories(before):
        old, new = (
            ranker.score([query(history, ids, before)])[0]
            for ranker, ids in zip(rankers, (old_ids, asked), strict=True)
        )
        assert np.isfinite(new).all()
        (same,) = rankers[1].score([query(history, old_ids, before)])
        assert np.abs(same - old).max() < 1e-4


def query(history: History, item_ids: Ids, bundle: Bundle) -> RankQuery:
    none = np.zeros((len(item_ids), 1), np.float32)
    candidates = Candidates.without_seeds(item_ids, ("popularity",), none, np.zeros((len(item_ids), 1), np.int32))
    return RankQuery(history, bundle.manifest.cutoff, candidates)


def test_every_role_answers_its_golden_requests_and_every_file_is_whole(before: Bundle, after: Bundle) -> None:
    assert set(after.manifest.roles) == set(before.manifest.roles)
    assert set(after.manifest.files) == {*before.manifest.files, INDEX_FILE}
    for role in after.manifest.roles:
        after.verify(role)
    for role in CHANNELS:
        check_recall(after.folder, role, channel_class(role).load(after).recall)
    check_rank(after.folder, Ranker.load(after).score)
    catalogue = Catalogue.load(after.folder)
    check_gateway(
        after.folder,
        catalogue=catalogue,
        texts=ItemTexts.load(after.folder),
        histories=StoredHistories.open(after.folder),
        fallback=Fallback.open(after.folder, catalogue),
    )


def test_what_the_bundle_says_of_time_and_policy_stays(before: Bundle, after: Bundle) -> None:
    fields = ("purpose", "cutoff", "events_watermarks", "policy", "feature_names", "metrics")
    assert [getattr(after.manifest, name) for name in fields] == [getattr(before.manifest, name) for name in fields]
    assert after.manifest.index is not None
    assert after.manifest.index.count == len(Catalogue.load(after.folder)) == len(Catalogue.load(before.folder)) + 3
    bonus = np.load(after.folder / BONUS_FILE)
    catalogue = Catalogue.load(after.folder)
    assert (bonus[catalogue.rows(np.asarray(new_ids(before, after)))] == 1.5).all(), "no list showed them yet"


def test_indexing_again_changes_nothing(
    after: Bundle, config: OfflineConfig, arguments: list[str], others: Path
) -> None:
    main(["index", *arguments, "--items-file", str(others)])
    assert released(config).version == after.version


def test_servers_recommend_new_items_and_move_to_those_that_come_on_top(
    before: Bundle,
    after: Bundle,
    config: OfflineConfig,
    arguments: list[str],
    others: Path,
    tmp_path: Path,
) -> None:
    with served(config.store("production"), folder=tmp_path) as address:
        answer = westerns_of_1965(address, before)
        assert (answer.bundle_version, answer.degraded) == (after.version, False)
        (found,) = [item for item in answer.items if item.item_id == BETWEEN]
        assert {"vector", "content"} <= {reason.channel for reason in found.reasons}
        with others.open("a", newline="") as file:
            csv.writer(file).writerow(("another", "Another"))
        main(["index", *arguments, "--items-file", str(others)])
        again = released(config)
        assert new_ids(after, again) == [FIRST_ASSIGNED + 2]
        eventually(
            lambda: active_version(address) == again.version, "the servers move to the bundle with one more item"
        )
        assert westerns_of_1965(address, before).degraded is False


def westerns_of_1965(address: str, bundle: Bundle) -> RecommendResponse:
    """What somebody who took westerns lately is recommended of those of that year."""
    history = fan_of(bundle, "Western")
    request = RecommendRequest(
        history=types_pb2.History(item_ids=history.item_ids.tolist(), timestamps=history.timestamps.tolist()),
        filter=types_pb2.ItemFilter(genres_any=["Western"], min_year=1965, max_year=1965),
        count=20,
        debug=True,
    )
    with grpc.insecure_channel(address) as channel:
        answer: RecommendResponse = RecommendationServiceStub(channel).Recommend(request, timeout=30)
    return answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--root", "elsewhere"], "no bundle was published here"),
        (["--items-file", "nowhere.csv"], "no such file; name another with --items-file"),
        (["--split.protocol", "time-to-split"], "keeps some items out of its catalogue"),
        (["--two-tower.sequence.size", "8"], "this configuration needs"),
    ],
)
def test_what_cannot_be_indexed_is_named(
    after: Bundle,
    arguments: list[str],
    others: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    others_flag = [] if "--items-file" in change else ["--items-file", str(others)]
    with pytest.raises(SystemExit):
        main(["index", *arguments, *others_flag, *change])
    assert message in capsys.readouterr().err


def test_an_item_that_is_gone_is_named(
    after: Bundle, config: OfflineConfig, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of the third item is not given again."""
    with pytest.raises(SystemExit):
        main(["index", *arguments])
    assert "are not in the tables" in capsys.readouterr().err
    assert released(config).version
