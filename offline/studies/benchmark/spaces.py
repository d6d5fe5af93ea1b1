"""What is searched, per model of ours: a setting of the offline configuration, and the values it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar, cast

from offline.workflow.config import OfflineConfig

if TYPE_CHECKING:
    import optuna

Value = int | float | str | bool
SearchedSettings = dict[str, Value]
"""By dotted key, `section.field` or `section.subsection.field`.

Never null, which a TOML file cannot express and so could not set over another file.
"""


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of these."""

    options: tuple[Value, ...]
    null: Value | None = None
    """The option that means what null does, where one does."""

    def holds(self, value: object) -> bool:
        """Whether `value` may be suggested."""
        return value in self.options

    def suggest(self, trial: optuna.Trial, key: str) -> Value:
        """A value."""
        return cast("Value", trial.suggest_categorical(key, self.options))


@dataclass(frozen=True, slots=True)
class Real:
    """Between two numbers, on a logarithmic scale unless `linear`."""

    low: float
    high: float
    linear: bool = False

    def holds(self, value: object) -> bool:
        """Whether `value` may be suggested."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def suggest(self, trial: optuna.Trial, key: str) -> Value:
        """A value, to three significant digits: settings are read by people."""
        return float(f"{trial.suggest_float(key, self.low, self.high, log=not self.linear):.3g}")


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number between two, on a logarithmic scale unless `linear`."""

    low: int
    high: int
    linear: bool = False

    def holds(self, value: object) -> bool:
        """Whether `value` may be suggested."""
        return isinstance(value, int) and self.low <= value <= self.high

    def suggest(self, trial: optuna.Trial, key: str) -> Value:
        """A value."""
        return trial.suggest_int(key, self.low, self.high, log=not self.linear)


Space = Mapping[str, Categorical | Real | Integer]

_HALF_LIVES = Categorical((3.0, 7.0, 14.0, 30.0, 90.0, 365.0, 3_650.0))
_ALL_RATINGS = 0.0
"""The lowest `min_value`: it leaves no rating out, as null does."""
_MIN_VALUE = Categorical((_ALL_RATINGS, 3.0, 4.0), null=_ALL_RATINGS)
"""Of ratings from 1 to 5."""
_FLOORS = Categorical((0.0, 0.1, 0.2, 0.5, 1.0))

SPACES: dict[str, Space] = {
    "itemcf": {
        "itemcf.reg": Real(30, 10_000),
        "itemcf.n_neighbours": Categorical((50, 100, 200, 400)),
        "itemcf.min_value": _MIN_VALUE,
        "itemcf.training_value_floor": _FLOORS,
        "itemcf.history_value_floor": _FLOORS,
        "itemcf.half_life_days": _HALF_LIVES,
    },
    "als": {
        "als.factors": Categorical((32, 64, 128, 256)),
        "als.reg": Real(0.1, 300),
        "als.confidence": Real(0.5, 40),
        "als.iterations": Integer(5, 25, linear=True),
        "als.min_value": _MIN_VALUE,
        "als.training_value_floor": _FLOORS,
        "als.history_value_floor": _FLOORS,
        "als.half_life_days": _HALF_LIVES,
    },
    "content": {
        "content.genre_weight": Real(0.0, 2.0, linear=True),
        "content.people_weight": Real(0.0, 2.0, linear=True),
        "content.text_weight": Real(0.0, 2.0, linear=True),
        "content.half_life_days": _HALF_LIVES,
    },
    "vector": {
        "two_tower.tower": Categorical(("pooled", "sequence")),
        "two_tower.sequence.size": Categorical((64, 128)),
        "two_tower.sequence.dropout": Real(0.05, 0.4, linear=True),
        "two_tower.sequence.temperature": Real(0.03, 0.15),
        "two_tower.sequence.negatives": Categorical((256, 512, 1_024)),
        "two_tower.sequence.learning_rate": Real(5e-4, 1e-2),
    },
    "ranker": {
        "lightgbm.learning_rate": Real(0.02, 0.2),
        "lightgbm.leaves": Integer(3, 63),
        "lightgbm.min_leaf_rows": Integer(50, 1_000),
        "lightgbm.feature_share": Real(0.3, 1.0, linear=True),
        "lightgbm.truncation": Integer(10, 100),
    },
}
"""By channel, or `ranker`; further settings can be tuned by an entry here."""

Config = TypeVar("Config", bound=OfflineConfig)


def suggested(space: Space, trial: optuna.Trial) -> SearchedSettings:
    """A value for every key of the space."""
    return {key: domain.suggest(trial, key) for key, domain in space.items()}


def present(space: Space, config: OfflineConfig) -> SearchedSettings:
    """What `config` has for the keys of the space, where the space holds it: the first trial, as good as any other."""
    found: SearchedSettings = {}
    for key, domain in space.items():
        value: Any = reduce(getattr, key.split("."), config)
        if value is None and isinstance(domain, Categorical):
            value = domain.null
        if domain.holds(value):
            found[key] = value
    return found


def overridden(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with these settings, checked as if they had been given to it."""
    sections: dict[str, Any] = {}
    for key, value in settings.items():
        section, *inner, name = key.split(".")
        table = sections.setdefault(section, getattr(config, section).model_dump())
        for part in inner:
            table = table[part]
        table[name] = value
    checked = {name: type(getattr(config, name))(**values) for name, values in sections.items()}
    return config.model_copy(update=checked)
