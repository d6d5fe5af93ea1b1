"""The quality that the project promises, on real data: a floor that a broken model, feature or filter falls through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offline.publish.publish import REPORT_FOLDER
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow

REBUILT = Path(__file__).parents[3] / "shared" / "data" / "ml-1m-rebuilt"
CHOSEN = Path(__file__).parents[2] / "benchmarks" / "settings" / "time-to-split-ml-1m-rebuilt" / "base.toml"
PROMISED = {"itemcf": 0.26, "vector": 0.17, "ranked": 0.30}
"""Least NDCG@10 of warm users, time-to-split, targets `all`, whatever the settings."""

FLOORS = {"itemcf": 0.27, "vector": 0.24, "ranked": 0.30}
"""The same for the settings below: a loss of more than noise is seen, not only one down to what is promised."""

SETTINGS = (
    "--split.protocol=time-to-split",
    "--split.windows=0.7",
    "--serving.channels=popularity,itemcf,vector",
    "--ranker.candidates=lightgbm",
    "--lightgbm.max-rounds=100",
    "--two-tower.pooled.epochs=4",
    "--no-samples.svd-rating",
)
"""Of the settings that the benchmark chose, fewer models.

itemcf reaches 0.285, vector 0.275, ranked 0.313.
"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.realdata,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not REBUILT.is_dir(), reason=f"{REBUILT} is not here"),
]


def test_quality_does_not_fall_below_its_floor(tmp_path: Path) -> None:
    arguments = ["--config", str(CHOSEN), "--dataset", "ml-1m", "--data-dir", str(REBUILT), "--root", str(tmp_path)]
    config = OfflineConfig.from_arguments([*arguments, *SETTINGS], "test")
    report = Workflow(config).evaluation("all").folder / REPORT_FOLDER
    headline = json.loads((report / "headline.json").read_text("utf-8"))
    found = {system: headline[f"{system}.warm.ndcg@10"] for system in FLOORS}
    for system, floor in FLOORS.items():
        assert found[system] >= floor >= PROMISED[system], found
    warm = next(row for row in json.loads((report / "all.json").read_text("utf-8"))["rows"] if row["group"] == "warm")
    assert warm["users"] == 1_180
