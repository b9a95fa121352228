"""What a search varies, from the words of the command line to trials."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm.config import Config, ConfigError
from ray_bilstm.space import Choices, Plan, Range, Trial, parse_axes, parse_axis, sample


@pytest.mark.parametrize(
    ("text", "name", "axis"),
    [
        ("model.hidden_size=128,256", "hidden_size", Choices((128, 256))),
        ("hidden-size = 128 , 256", "hidden_size", Choices((128, 256))),
        ("head=crf,softmax", "head", Choices(("crf", "softmax"))),
        ("training.learning_rate=1e-3", "learning_rate", Choices((0.001,))),
        ("training.learning_rate=log:1e-3..1e-2", "learning_rate", Range(0.001, 0.01, True, False)),
        ("model.dropout=0.3..0.6", "dropout", Range(0.3, 0.6, False, False)),
        ("log:num_layers=1", None, None),
        ("hidden_size=log:64..256", "hidden_size", Range(64, 256, True, True)),
        ("run.amp_opt_level=O0,O2", "amp_opt_level", Choices(("O0", "O2"))),
    ],
)
def test_an_axis_is_read(text, name, axis) -> None:
    if name is None:
        with pytest.raises(ConfigError, match="cannot vary"):
            parse_axis(text)
    else:
        assert parse_axis(text) == (name, axis)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden_size", "'hidden_size': expected NAME=VALUES"),
        ("hidden_size=", "expected NAME=VALUES"),
        ("hidden=3", "'hidden' cannot vary in a search: expected one of bigram_min_count, head"),
        ("training.hidden_size=3", "'training.hidden_size' cannot vary"),
        ("seed=1,2", "'seed' cannot vary"),
        ("num_workers=1,2", "'num_workers' cannot vary"),
        ("data_dir=a,b", "'data_dir' cannot vary"),
        ("hidden_size=128,many", "hidden_size is 'many': expected int"),
        ("hidden_size=0", "hidden_size is 0: expected 1 or more"),
        ("hidden_size=128,128", "hidden_size is 128,128: expected each value once"),
        ("head=crf,hmm", "head is 'hmm': expected one of crf, softmax"),
        ("head=crf..softmax", "only numbers have ranges"),
        ("dropout=0.6..0.3", "expected LOW below HIGH"),
        ("dropout=log:0..0.3", "expected LOW below HIGH, and above 0"),
        ("dropout=0.3..1.5", "dropout is 1.5: expected 0 or more and less than 1"),
        ("dropout=lin:0.3..0.5", r"expected LOW\.\.HIGH or log:LOW\.\.HIGH"),
    ],
)
def test_what_cannot_be_an_axis_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_axis(text)


def test_a_setting_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="dropout is given twice"):
        parse_axes(["dropout=0.1", "model.dropout=0.2"])


def test_a_grid_is_every_combination_with_every_seed() -> None:
    plan = Plan(seeds=(7, 8), axes=parse_axes(["batch_size=16,32", "head=crf,softmax"]))
    assert plan.configurations() == [
        {"batch_size": batch_size, "head": head} for batch_size in (16, 32) for head in ("crf", "softmax")
    ]
    trials = plan.trials()
    assert len(trials) == len({trial.name for trial in trials}) == 8
    assert trials[1] == Trial({"batch_size": 16, "head": "crf"}, 8)
    assert trials[1].name == "batch_size=16,head=crf,seed=8"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds are none"),
        ({"seeds": (1, 2, 1)}, "seeds are 1, 2, 1: expected one or more, each once"),
        ({"seeds": (-1,)}, "seed is -1"),
        ({"samples": 0}, "samples is 0: expected 1 or more"),
        ({"axes": {"dropout": Range(0.1, 0.2, False, False)}}, "dropout is 0.1..0.2: a grid has no ranges"),
        (
            {"axes": {"bigram_min_count": Range(1, 5, False, True)}, "search": "random"},
            "bigram_min_count is 1..5: the corpus is encoded before the trials; list the values$",
        ),
    ],
)
def test_an_impossible_plan_is_refused(fields, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(**fields)


finite = {"allow_nan": False, "allow_infinity": False}
ends = (
    st.tuples(st.floats(1e-6, 1e6, **finite), st.floats(1e-6, 1e6, **finite)).map(sorted).filter(lambda e: e[0] < e[1])
)


@given(ends, st.booleans(), st.integers(0, 100))
def test_samples_lie_within_the_range_and_are_different(ends, log: bool, seed: int) -> None:
    axes = {"learning_rate": Range(*ends, log, False), "hidden_size": Range(3, 9, log, True)}
    configs = sample(axes, 5, seed=seed)
    assert len({tuple(config.values()) for config in configs}) == len(configs) == 5
    for config in configs:
        assert ends[0] <= config["learning_rate"] <= ends[1]
        assert config["hidden_size"] in range(3, 10)
        assert isinstance(config["hidden_size"], int)


@given(st.integers(1, 12), st.integers(0, 5))
def test_more_samples_begin_with_those_of_fewer(count: int, seed: int) -> None:
    axes = {"dropout": Range(0.3, 0.6, False, False), "head": Choices(("crf", "softmax"))}
    assert sample(axes, count + 3, seed=seed)[:count] == sample(axes, count, seed=seed)


def test_no_more_samples_than_there_are_configurations() -> None:
    configs = sample(parse_axes(["head=crf,softmax", "num_layers=1..2"]), 10, seed=1)
    assert len(configs) == 4


def test_a_logarithmic_range_has_as_many_samples_in_every_decade() -> None:
    rates = [
        config["learning_rate"] for config in sample({"learning_rate": Range(1e-4, 1e-1, True, False)}, 900, seed=1)
    ]
    decades = [math.floor(math.log10(rate)) for rate in rates]
    assert all(abs(decades.count(decade) - 300) < 60 for decade in (-4, -3, -2))


def test_sampled_settings_are_settings() -> None:
    plan = Plan(search="random", axes=parse_axes(["learning_rate=log:1e-4..1e-1", "patience=1..3", "dropout=0.0..0.9"]))
    for config in plan.configurations():
        Config().with_fields(**config)
