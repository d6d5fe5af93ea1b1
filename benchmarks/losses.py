"""Every loss of the vector channel's towers, on validation.

    python benchmarks/losses.py --dataset ml-1m --data-dir FOLDER [--out losses.json] [settings of python -m offline]

Prints NDCG@10, HR@10 and recall@10 of warm requests of the validation window with 95 % intervals, NDCG@10 as a share
of that of the tower's usual loss and with a paired interval, epochs and CPU seconds, and writes them to `--out`. Towers
learn from what came before that window; test data is not touched. Finished trainings are kept in the workspace, and of
one that was killed its finished epochs: a killed run continues where it stopped.
"""

from __future__ import annotations

import logging
import sys

from offline.studies.benchmark.loss_result import text_table
from offline.studies.benchmark.losses import LossesConfig, compare_losses


def main() -> None:
    """Runs the comparison."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    config = LossesConfig.from_arguments(sys.argv[1:], "benchmarks/losses.py")
    result = compare_losses(config)
    result.save(config.out)
    print(text_table(result))


if __name__ == "__main__":
    main()
