"""`python -m offline VERB`: parse, set up logging, run one verb, turn errors into one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from offline.commands import (
    benchmark,
    check_skew,
    download,
    evaluate,
    index,
    ingest,
    publish,
    replay,
    report,
    rerank,
    rollback,
    run,
    serve,
    train,
    tune,
)
from offline.commands.exits import exit_codes, fail, log_to_terminal
from offline.commands.verb import Verb
from offline.workflow.config import OfflineConfig

log = logging.getLogger("offline")

VERBS: dict[str, Verb[Any]] = {
    "download": download.VERB,
    "ingest": ingest.VERB,
    "train": train.VERB,
    "evaluate": evaluate.VERB,
    "benchmark": benchmark.VERB,
    "tune": tune.VERB,
    "rerank": rerank.VERB,
    "publish": publish.VERB,
    "index": index.VERB,
    "rollback": rollback.VERB,
    "replay": replay.VERB,
    "report": report.VERB,
    "check-skew": check_skew.VERB,
    "run": run.VERB,
    "serve": serve.VERB,
}
"""By what is typed, in the order in which `--help` lists them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m offline` and `recsys-offline`; exits with 0, 2 (an error that is named) or 130."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return
    name, *rest = words
    if name not in VERBS:
        fail(f"no verb {name!r}; there are: {', '.join(VERBS)}")
    log_to_terminal()
    verb = VERBS[name]
    with exit_codes():
        config = verb.config.from_arguments(rest, f"python -m offline {name}")
        log.info("offline %s\n%s", name, described(config))
        verb.run(config)


def usage() -> str:
    """What `--help` prints without a verb."""
    verbs_text = "\n".join(f"  {name:<12}{verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: python -m offline VERB [--config FILE.toml] [--setting VALUE …]\n\n"
        f"From raw interactions to served recommendations.\n\nverbs:\n{verbs_text}\n\n"
        "`python -m offline VERB --help` lists a verb's settings. Each can be a flag,\n"
        "an environment variable (RECSYSOFFLINE_ROOT for --root) or a key in the file.\n"
    )


def described(config: OfflineConfig) -> str:
    """Every setting, one line per section."""
    return "\n".join(_section_lines("", config))


def _section_lines(name: str, section: BaseModel) -> Iterator[str]:
    """The line of a section, then those of the sections within it."""
    inner = {key: value for key, value in section if isinstance(value, BaseModel)}
    plain = section.model_dump(mode="json", exclude=set(inner))
    yield "  " + " ".join([*([f"[{name}]"] if name else []), *(f"{key}={value}" for key, value in plain.items())])
    for key, value in inner.items():
        yield from _section_lines(f"{name}.{key}" if name else key, value)
