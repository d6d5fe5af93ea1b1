"""`offline tune`: a search of settings. What it searches with is imported when it is run: it is an extra."""

from __future__ import annotations

from offline.commands.output import say
from offline.commands.verb import Verb
from offline.studies.benchmark.config import TuneConfig
from offline.studies.benchmark.tracking import track_tuning
from recsys.errors import CannotStart


def tune(config: TuneConfig) -> None:
    """Searches settings, model by model, and saves what was chosen; raises CannotStart without the extra `bench`."""
    try:
        from offline.studies.benchmark.tuning import tune as search_settings
    except ImportError as error:
        raise CannotStart(f"tuning needs the extra `bench` ({error}); pip install -e '.[bench]'") from error
    for model in config.models:
        tuned = search_settings(config, model)
        tuned.save(config.settings / config.place)
        say(f"{model}: validation {tuned.metric} {tuned.value:.4f}, {tuned.cpu_seconds:.0f} CPU s, {tuned.settings}")
        track_tuning(config.tracking, config.place, tuned)


VERB = Verb(TuneConfig, tune)
