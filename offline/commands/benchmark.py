"""`offline benchmark`: ours and peers on the same rows."""

from __future__ import annotations

import logging

from offline.commands.output import say
from offline.commands.verb import Verb
from offline.studies.benchmark.config import BenchmarkConfig
from offline.studies.benchmark.report import results_page
from offline.studies.benchmark.runs import run_benchmark
from offline.studies.benchmark.table import text_table
from offline.studies.benchmark.tracking import track_result

log = logging.getLogger(__name__)


def benchmark(config: BenchmarkConfig) -> None:
    """Prints and saves the table; with `--report` the page of all saved results."""
    if config.report:
        say(results_page(config.results).rstrip())
        return
    result = run_benchmark(config)
    say(text_table(result))
    log.info("saved as %s", result.save(config.results))
    track_result(config.tracking, result)


VERB = Verb(BenchmarkConfig, benchmark)
