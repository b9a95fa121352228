"""Settings: nothing wrong gets in, nothing is lost on the way through JSON, everything has help."""

import dataclasses
import json

import pytest

from ray_bilstm.config import Config, ConfigError, DataConfig, ModelConfig, RunConfig, TrainingConfig, iter_flags

FLAGS = list(iter_flags())


def test_json_round_trip():
    config = Config(
        data=DataConfig(data_dir="数据", scheme="IOB1"),
        model=ModelConfig(head="softmax", dropout=0.0),
        training=TrainingConfig(learning_rate=1e-4, seed=0),
        run=RunConfig(local_rank=0, num_workers=3),
    )
    assert Config.from_dict(json.loads(config.to_json())) == config
    assert Config.from_dict(json.loads(Config().to_json())) == Config()
    assert Config.from_dict({}) == Config()
    assert "数据" in config.to_json()


OUT_OF_RANGE = [
    ("scheme", "BILOU"),
    ("bigram_min_count", -1),
    ("shard_memory", 0),
    ("head", "mlp"),
    ("embedding_size", 0),
    ("bigram_size", 0),
    ("hidden_size", -3),
    ("num_layers", 0),
    ("dropout", 1.0),
    ("dropout", -0.1),
    ("mention_replacement", 1.5),
    ("adversarial", -1.0),
    ("token_dropout", 1.5),
    ("seed", -1),
    ("seed", 2**32),
    ("batch_size", 0),
    ("word_size", 0),
    ("train_epochs", 0),
    ("learning_rate", 0.0),
    ("learning_rate", float("nan")),
    ("weight_decay", -0.01),
    ("warmup", 1.0),
    ("warmup", -0.1),
    ("clip_norm", 0.0),
    ("patience", -1),
    ("teacher_weight", 1.1),
    ("teacher_weight", -0.1),
    ("device", "tpu"),
    ("num_workers", 0),
    ("local_rank", -1),
    ("min_workers", 0),
    ("min_workers", 2),
    ("max_failures", -1),
    ("stop_after", 0),
    ("storage_path", "/shared/runs"),
    ("amp_opt_level", "O3"),
    ("amp_dtype", "float32"),
    ("lstm_dtype", "float16"),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value!r}: expected"):
        Config().with_fields(**{name: value})


def test_every_setting_with_a_range_is_in_the_list_above():
    paths = {"data_dir", "embeddings", "init_from", "lexicon", "output_dir", "teacher"}
    free = paths | {"distributed", "mlflow", "overwrite", "resume", "tensorboard"}
    assert {flag.name for flag in FLAGS} - {name for name, _ in OUT_OF_RANGE} == free


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", True),
        ("batch_size", 2.0),
        ("batch_size", "64"),
        ("batch_size", None),
        ("dropout", "0.5"),
        ("dropout", False),
        ("resume", 1),
        ("resume", "yes"),
        ("data_dir", 3),
        ("local_rank", True),
        ("head", None),
    ],
)
def test_a_value_of_the_wrong_type_is_named(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value!r}: expected"):
        Config().with_fields(**{name: value})


def test_whole_numbers_pass_for_real_ones():
    assert Config().with_fields(dropout=0, learning_rate=1).training.learning_rate == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modle": {}}, "unknown section 'modle': expected one of data, model"),
        ({"model": {"batch_size": 3}}, "unknown setting 'batch_size': expected one of head"),
        ({"model": 3}, "ModelConfig is 3: expected"),
    ],
)
def test_unknown_sections_and_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(settings)
    with pytest.raises(ConfigError, match="unknown setting 'bach_size'"):
        Config().with_fields(bach_size=3)


def test_settings_that_exclude_each_other():
    with pytest.raises(ConfigError, match="overwrite and resume"):
        RunConfig(overwrite=True, resume=True)
    with pytest.raises(ConfigError, match=r"distributed.*local_rank"):
        RunConfig(distributed=True, local_rank=0)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().training.batch_size = 3  # type: ignore[misc]


def test_flag_names_are_unique_and_each_has_help():
    names = [flag.name for flag in FLAGS]
    assert len(set(names)) == len(names) == sum(len(section) for section in Config().to_dict().values())
    assert all(len(flag.help) > 10 and "\n" not in flag.help for flag in FLAGS)
    assert len({flag.help for flag in FLAGS}) == len(FLAGS)


def test_flags_say_type_default_and_choices():
    flags = {flag.name: flag for flag in FLAGS}
    assert (flags["batch_size"].type, flags["batch_size"].default) == (int, 64)
    assert (flags["data_dir"].type, flags["local_rank"].type, flags["resume"].type) == (str, int, bool)
    assert flags["head"].choices == ("crf", "softmax")
    assert flags["dropout"].choices is None
    for flag in FLAGS:
        assert Config().with_fields(**{flag.name: flag.default}) == Config()


@pytest.mark.parametrize("name", ["output_dir", "data_dir", "teacher", "embeddings", "lexicon", "init_from"])
def test_a_uri_is_not_taken_for_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is 's3://bucket/x': expected a path, on a folder"):
        Config().with_fields(**{name: "s3://bucket/x"})
