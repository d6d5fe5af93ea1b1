"""A new item enters a published bundle without training: found by what describes it, and nothing else changes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from gateway.fallback import Fallback
from gateway.golden import check_gateway
from gateway.rerank import BONUS_FILE
from gateway.state import Histories
from offline.cli import main
from offline.config import OfflineConfig
from offline.demo.catalogue import read_catalogue
from offline.demo.world import DemoWorld, generate
from offline.ids import FIRST_ASSIGNED
from offline.publish import INDEX_FILE
from offline.steps import RECEIPT
from offline.workflow import Workflow
from rank_server.scoring import Ranker
from recall_server.channels import channel_class
from recsys.bundle import Bundle
from recsys.bundle.golden import check_rank, check_recall
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import Candidates, History, Ids, ItemFilter, RankQuery, RecallQuery

pytestmark = [pytest.mark.integration]

CHANNELS = ("popularity", "itemcf", "vector", "als", "content")
SETTINGS = (
    "--serving.channels=popularity,itemcf,vector,als,content",
    "--two-tower.tower=sequence",
    "--two-tower.sequence-text",
    "--two-tower.sequence-size=16",
    "--two-tower.sequence-epochs=2",
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
HEADER = ("id", "title", "genres", "year", "directors", "overview")
BETWEEN = 15
"""A number between those of old items, which are multiples of ten."""


def write_raw(folder: Path, world: DemoWorld) -> None:
    """The synthetic world as own interactions, with room between the numbers of items."""
    folder.mkdir()
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "timestamp", "rating"))
        columns = (world.user_id, world.item_id * 10, world.timestamp, world.value)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
    films = world.catalogue
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row, item in enumerate(films.item_id.tolist()):
            genres, directors = ("|".join(names[row]) for names in (films.genres, films.director))
            writer.writerow((item * 10, films.title[row], genres, int(films.year[row]), directors, ""))


def add_items(file: Path, *rows: tuple[object, ...]) -> None:
    with file.open("a", newline="") as opened:
        csv.writer(opened).writerows(rows)


def steps(root: Path) -> set[str]:
    return {path.parent.name for path in root.glob(f"*/work/*/{RECEIPT}")}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A published production bundle of a tiny world with every channel; the command line of all verbs for it."""
    root = tmp_path_factory.mktemp("index")
    write_raw(root / "raw", generate(read_catalogue(), users=150, events_per_user=30.0, seed=5))
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
    """A file of items beside the data set's: one of which nothing is known."""
    file = tmp_path_factory.mktemp("others") / "new.csv"
    file.write_text("id,title\nsilent,Untold\n", "utf-8")
    return file


@pytest.fixture(scope="module")
def after(before: Bundle, config: OfflineConfig, arguments: list[str], others: Path) -> Bundle:
    """The same with three new items: two described ones in the raw file, one of which nothing is known in another."""
    assert config.data_dir is not None
    director = read_catalogue().director[0][0]
    add_items(
        config.data_dir / "items.csv",
        (BETWEEN, "The Lonesome Saddle", "Western", 1965, director, "a drifter rides into a dusty town"),
        ("brand-new", "The Crying Doll", "Horror|Puppetry", 1985, "Nobody Known", "a doll that cries at night"),
    )
    done = steps(config.root)
    main(["index", *arguments, "--items-file", str(others)])
    assert {name.partition("-")[0] for name in steps(config.root) - done} == {"index", "text"}, "nothing is trained"
    return released(config)


def released(config: OfflineConfig) -> Bundle:
    store = config.store("production")
    return store.open(store.release().current)


def histories(bundle: Bundle, n: int = 12) -> list[History]:
    stored = Histories.open(bundle.folder)
    return [*(stored.of(int(user)) for user in stored.user_ids[:n]), History.empty()]


def everything(bundle: Bundle, channel: str, history: History, **fields: object) -> dict[int, float]:
    """Score by item id of all that a channel knows to say."""
    query = RecallQuery(history, bundle.manifest.cutoff, 2_000, **fields)  # type: ignore[arg-type]
    (result,) = channel_class(channel).load(bundle).recall([query])
    return dict(zip(result.item_ids.tolist(), result.scores.tolist(), strict=True))


def fan_of(bundle: Bundle, genre: str) -> History:
    """Somebody who took five films of one genre lately."""
    catalogue = Catalogue.load(bundle.folder)
    ids: Ids = catalogue.item_ids[catalogue.genres[:, catalogue.genre_columns[genre]]][:5]
    times = bundle.manifest.cutoff - np.arange(5, 0, -1) * 60
    return History(ids, times.astype(np.int64), np.ones(5, np.int8), np.full(5, 5, np.float32))


def new_ids(before: Bundle, after: Bundle) -> list[int]:
    return np.setdiff1d(Catalogue.load(after.folder).item_ids, Catalogue.load(before.folder).item_ids).tolist()


def test_the_items_are_in_the_catalogue_with_numbers_for_good(before: Bundle, after: Bundle) -> None:
    assert new_ids(before, after) == [BETWEEN, FIRST_ASSIGNED, FIRST_ASSIGNED + 1]
    catalogue, texts = Catalogue.load(after.folder), ItemTexts.load(after.folder)
    assert catalogue.rows(np.asarray([BETWEEN])).tolist() == [1], "old items move to make room"
    assert (texts.keys[-2:], texts.titles[-2:]) == (["brand-new", "silent"], ["The Crying Doll", "Untold"])
    assert "Puppetry" in catalogue.genre_names
    facts = json.loads((after.folder / INDEX_FILE).read_text("utf-8"))
    assert facts["indexed"] == before.version
    assert list(facts["new_items"]) == [str(BETWEEN), "brand-new", "silent"]


def test_they_are_found_by_those_who_like_what_they_are(after: Bundle, config: OfflineConfig) -> None:
    western, horror = fan_of(after, "Western"), fan_of(after, "Horror")
    for channel in ("content", "vector"):
        by_western, by_horror = (everything(after, channel, history) for history in (western, horror))
        assert {BETWEEN, FIRST_ASSIGNED} <= set(by_western) & set(by_horror), channel
        assert list(by_western).index(BETWEEN) < config.serving.channel_count, f"{channel}: a candidate of a request"
        assert by_western[BETWEEN] > by_western[FIRST_ASSIGNED], channel
        lead, other = (scores[BETWEEN] - scores[FIRST_ASSIGNED] for scores in (by_western, by_horror))
        assert lead > other, f"{channel}: the western is rather for those who like westerns"


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
    old_ids = Catalogue.load(before.folder).item_ids[::40]
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
        histories=Histories.open(after.folder),
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


def test_indexing_again_changes_nothing_and_more_items_come_on_top(
    after: Bundle, config: OfflineConfig, arguments: list[str], others: Path
) -> None:
    main(["index", *arguments, "--items-file", str(others)])
    assert released(config).version == after.version
    add_items(others, ("another", "Another"))
    main(["index", *arguments, "--items-file", str(others)])
    again = released(config)
    assert new_ids(after, again) == [FIRST_ASSIGNED + 2]
    check_recall(again.folder, "vector", channel_class("vector").load(again).recall)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--root", "elsewhere"], "no bundle was published here"),
        (["--items-file", "nowhere.csv"], "no such file; name another with --items-file"),
        (["--split.protocol", "time-to-split"], "keeps some items out of its catalogue"),
        (["--two-tower.sequence-size", "8"], "this configuration needs"),
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
    beside = [] if "--items-file" in change else ["--items-file", str(others)]
    with pytest.raises(SystemExit):
        main(["index", *arguments, *beside, *change])
    assert message in capsys.readouterr().err


def test_an_item_that_is_gone_is_named(
    after: Bundle, config: OfflineConfig, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of the third item is not given again."""
    with pytest.raises(SystemExit):
        main(["index", *arguments])
    assert "are not in the tables" in capsys.readouterr().err
    assert released(config).version
