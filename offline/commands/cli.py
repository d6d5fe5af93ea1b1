"""`python -m offline VERB`: parse, set up logging, run one verb, turn errors into one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from offline.commands import skew, verbs
from offline.indexing.job import IndexConfig, index
from offline.studies.benchmark.config import BenchmarkConfig, TuneConfig
from offline.studies.report import verb as reporting
from offline.studies.report.config import ReportConfig
from offline.studies.rerank.verb import RerankCurveConfig, rerank
from offline.workflow.config import OfflineConfig
from recsys.errors import RecsysError

log = logging.getLogger("offline")

Config = TypeVar("Config", bound=OfflineConfig)


@dataclass(frozen=True, slots=True)
class Verb(Generic[Config]):
    """One thing the command can do."""

    summary: str
    config: type[Config]
    run: Callable[[Config], None]


VERBS: dict[str, Verb[Any]] = {
    "download": Verb("fetch a MovieLens data set from its owner, resumed and checked", OfflineConfig, verbs.download),
    "ingest": Verb("raw files, or recorded events with --events, to tables", verbs.IngestConfig, verbs.ingest),
    "train": Verb("train every recall channel and the ranker at every cut-off", OfflineConfig, verbs.train),
    "evaluate": Verb("judge channels, blended and ranked order on held-out data", verbs.EvaluateConfig, verbs.evaluate),
    "benchmark": Verb("peers and ours on the same rows of a protocol, in one table", BenchmarkConfig, verbs.benchmark),
    "tune": Verb("search settings of our models on validation, within a budget", TuneConfig, verbs.tune),
    "rerank": Verb(
        "choose how to re-rank for coverage on validation, and show it on the test", RerankCurveConfig, rerank
    ),
    "publish": Verb("release the evaluation and the production bundle", OfflineConfig, verbs.publish),
    "index": Verb("release the production bundle with new items, without training", IndexConfig, index),
    "rollback": Verb("release the bundle before the current one again", verbs.RollbackConfig, verbs.rollback),
    "replay": Verb("held-out requests, in time order, through a gateway", verbs.ReplayConfig, verbs.replay),
    "report": Verb("pictures and tables of item and user vectors, in one folder", ReportConfig, reporting.report),
    "check-skew": Verb("features of a running rank server against training's", skew.SkewConfig, skew.check_skew),
    "run": Verb("ingest, train, evaluate and publish; what did not change is not run again", OfflineConfig, verbs.run),
    "serve": Verb("run, then serve all five processes until Ctrl-C", verbs.ServeConfig, verbs.serve),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m offline` and `recsys-offline`; exits with 0, 2 (an error that is named) or 130."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return
    name, *rest = words
    if name not in VERBS:
        _fail(f"no verb {name!r}; there are: {', '.join(VERBS)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    verb = VERBS[name]
    try:
        config = verb.config.from_arguments(rest, f"offline {name}")
        log.info("offline %s\n%s", name, described(config))
        verb.run(config)
    except RecsysError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error}; check that the folder exists, is writable and has space left")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; finished steps are kept, run the same command again to go on\n")
        sys.exit(130)


def usage() -> str:
    """What `--help` prints without a verb."""
    verbs_text = "\n".join(f"  {name:<12}{verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: python -m offline VERB [--config FILE.toml] [--setting VALUE …]\n\n"
        f"From raw interactions to served recommendations.\n\nverbs:\n{verbs_text}\n\n"
        "`python -m offline VERB --help` lists the settings of a verb.\n"
    )


def described(config: OfflineConfig) -> str:
    """Every setting, one line per section."""
    plain, sections = [], []
    for name, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            sections.append(f"  [{name}] " + " ".join(f"{key}={inner}" for key, inner in value.items()))
        else:
            plain.append(f"{name}={value}")
    return "\n".join(["  " + " ".join(plain), *sections])


def _fail(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
