"""Every ranker on validation, and the network without each of its parts.

    python benchmarks/rankers.py --dataset ml-1m --data-dir FOLDER [--out rankers.json] [settings of python -m offline]

Prints NDCG@10 of warm requests of the validation window, as a share of LightGBM's and with a paired interval, and
writes it with learning curves to `--out`. Test data is not touched. Finished trials are kept in the workspace: a killed
run continues where it stopped.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from offline.ranking.rankers.comparison import compare, table
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow


class ComparisonConfig(OfflineConfig):
    """The settings of every offline verb, and where the table goes."""

    out: Path = Field(default=Path("rankers.json"), description="where the rows are written")


def main() -> None:
    """Runs the comparison."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    config = ComparisonConfig.from_arguments(sys.argv[1:], "benchmarks/rankers.py")
    workflow = Workflow(config)
    rows = compare(workflow.ranking.rankers, *workflow.ranking.selection_inputs(rating=True))
    facts = {"dataset": config.dataset, "protocol": config.split.protocol, "rows": [asdict(row) for row in rows]}
    config.out.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
