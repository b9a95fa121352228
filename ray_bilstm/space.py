"""What a search varies: `hidden_size=128,256` and the like -> axes -> configurations and their seeds.

Pure functions of the texts and a seed: the same plan gives the same configurations, and a larger number of samples
begins with those of a smaller one, so that a search can be resumed and extended.

    batch_size=16,32           these values
    dropout=0.3..0.6           anything between, evenly
    learning_rate=log:1e-3..1e-2    anything between, evenly on a logarithmic scale
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ray_bilstm.config import Config, ConfigError, Flag, iter_flags

if TYPE_CHECKING:
    import numpy as np

Settings = dict[str, Any]

OTHERS = ("bigram_min_count", "amp_opt_level", "amp_dtype", "lstm_dtype")
"""Fields outside of the model and training sections that may vary."""
DIGITS = 4
"""Significant ones of a number drawn from a range: it names a directory, and a person types it."""
MOST_DRAWS = 1000
"""Draws without a new configuration after which the space counts as used up."""


class Choices(NamedTuple):
    """An axis of listed values."""

    values: tuple[Any, ...]


class Range(NamedTuple):
    """An axis of all numbers from `low` to `high`, whole ones where `whole`."""

    low: float
    high: float
    log: bool
    whole: bool


Axis = Choices | Range


class Trial(NamedTuple):
    """One run of a search: the settings that vary, and the seed."""

    config: Settings
    seed: int

    @property
    def name(self) -> str:
        """Of its directory."""
        return ",".join(f"{name}={value}" for name, value in {**self.config, "seed": self.seed}.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search tries, and how. Raises ConfigError for what cannot be."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """every configuration is run with each of them"""
    axes: Mapping[str, Axis] = dataclasses.field(default_factory=lambda: {"batch_size": Choices((16, 32, 64, 128))})
    """what varies, by the name of its setting"""
    search: Literal["grid", "random", "optuna"] = "grid"
    samples: int = 10
    """configurations of a random or Optuna search"""
    scheduler: Literal["none", "asha"] = "none"
    """asha stops trials early whose dev entity F1 is among the lower two thirds at 1, 3, 9, ... times grace_epochs"""
    grace_epochs: int = 1
    """no trial is stopped before"""
    max_concurrent: int | None = None
    """trials at a time; as many as the cluster holds where None"""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds are {', '.join(map(str, self.seeds)) or 'none'}: expected one or more, each once")
        for name in ("samples", "grace_epochs", "max_concurrent"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected 1 or more")
        for name, axis in self.axes.items():
            if isinstance(axis, Range) and (self.search == "grid" or name == "bigram_min_count"):
                why = "a grid has no ranges" if self.search == "grid" else "the corpus is encoded before the trials"
                advice = ", or choose --search random or optuna" if self.search == "grid" else ""
                raise ConfigError(f"{name} is {axis.low:g}..{axis.high:g}: {why}; list the values{advice}")
        for seed in self.seeds:
            Config().with_fields(seed=seed)

    def configurations(self) -> list[Settings]:
        """Those of a grid or a random search, each once."""
        if self.search == "grid":
            values = [axis.values for axis in self.axes.values() if isinstance(axis, Choices)]
            return [dict(zip(self.axes, chosen, strict=True)) for chosen in itertools.product(*values)]
        return sample(self.axes, self.samples, seed=self.seeds[0])

    def words(self) -> list[str]:
        """The flags of `tune` that ask for this plan."""
        words = ["--seeds", ",".join(map(str, self.seeds))]
        for name, axis in self.axes.items():
            words += (
                ["--batch-sizes", values_of(axis)] if name == "batch_size" else ["--set", f"{name}={values_of(axis)}"]
            )
        default = Plan()
        for name in ("search", "samples", "scheduler", "grace_epochs", "max_concurrent"):
            if getattr(self, name) != getattr(default, name):
                words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return words

    def trials(self) -> list[Trial]:
        """All seeds of a configuration, then the next configuration."""
        return [Trial(config, seed) for config in self.configurations() for seed in self.seeds]


def values_of(axis: Axis) -> str:
    """What `parse_axis` reads the axis from, behind the name."""
    if isinstance(axis, Choices):
        return ",".join(map(str, axis.values))
    return f"{'log:' if axis.log else ''}{axis.low}..{axis.high}"


def parse_axis(text: str) -> tuple[str, Axis]:
    """`NAME=VALUES` -> the name of the setting and its axis; NAME may carry its section, as in `model.hidden_size`.

    Raises ConfigError for a setting that does not exist or cannot vary, and for values that it cannot take.
    """
    given, equals, values = text.partition("=")
    section, _, name = given.strip().replace("-", "_").rpartition(".")
    if not equals or not values.strip():
        raise ConfigError(f"{text!r}: expected NAME=VALUES, such as hidden_size=128,256 or dropout=0.3..0.6")
    flags = {flag.name: flag for flag in iter_flags() if flag.section in ("model", "training") or flag.name in OTHERS}
    del flags["seed"]
    if name not in flags or section not in ("", flags[name].section):
        raise ConfigError(f"{given.strip()!r} cannot vary in a search: expected one of {', '.join(flags)}")
    flag, values = flags[name], values.strip()
    if ".." in values:
        return name, _parse_range(flag, values)
    choices = tuple(_parse_value(flag, value.strip()) for value in values.split(","))
    if len(set(choices)) < len(choices):
        raise ConfigError(f"{name} is {values}: expected each value once")
    return name, Choices(choices)


def _parse_value(flag: Flag, text: str) -> Any:
    try:
        value = flag.type(text)
    except ValueError:
        raise ConfigError(f"{flag.name} is {text!r}: expected {flag.type.__name__}") from None
    Config().with_fields(**{flag.name: value})
    return value


def _parse_range(flag: Flag, text: str) -> Range:
    scale, colon, ends = text.rpartition(":")
    if colon and scale != "log":
        raise ConfigError(f"{flag.name} is {text!r}: expected LOW..HIGH or log:LOW..HIGH")
    if flag.type not in (int, float):
        raise ConfigError(f"{flag.name} is {text!r}: only numbers have ranges; list the values")
    low, high = (_parse_value(flag, end.strip()) for end in ends.split("..", 1))
    if not low < high or (colon and low <= 0):
        raise ConfigError(f"{flag.name} is {text!r}: expected LOW below HIGH{', and above 0' if colon else ''}")
    return Range(low, high, log=bool(colon), whole=flag.type is int)


def sample(axes: Mapping[str, Axis], count: int, *, seed: int) -> list[Settings]:
    """`count` different configurations drawn at random; fewer where there are no more."""
    import numpy as np  # late: the command line reads this module, and should start at once

    rng, misses = np.random.default_rng(seed), 0
    drawn: dict[tuple[Any, ...], Settings] = {}
    while len(drawn) < count and misses < MOST_DRAWS:
        config = {name: _draw(axis, rng) for name, axis in axes.items()}
        key = tuple(config.values())
        misses = misses + 1 if key in drawn else 0
        drawn.setdefault(key, config)
    return list(drawn.values())


def _draw(axis: Axis, rng: np.random.Generator) -> Any:
    if isinstance(axis, Choices):
        return axis.values[int(rng.integers(len(axis.values)))]
    if axis.log:
        low, high = math.log(axis.low), math.log(axis.high + axis.whole)
        value = math.exp(rng.uniform(low, high))
    else:
        value = float(rng.uniform(axis.low, axis.high + axis.whole))
    return min(int(value), int(axis.high)) if axis.whole else rounded(value, axis)


def rounded(value: float, axis: Range) -> float:
    """To DIGITS significant digits, within the axis."""
    return min(max(float(f"{value:.{DIGITS}g}"), axis.low), axis.high)


def parse_axes(texts: Sequence[str]) -> dict[str, Axis]:
    """The axes of `--set` texts. Raises ConfigError as `parse_axis` does, and for a setting that is named twice."""
    axes: dict[str, Axis] = {}
    for text in texts:
        name, axis = parse_axis(text)
        if name in axes:
            raise ConfigError(f"{name} is given twice: expected one list or range of its values")
        axes[name] = axis
    return axes
