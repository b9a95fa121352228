"""Settings of a run: four frozen sections, one source of flags, help texts and `config.json`.

A field's docstring is its help text. Field names are unique across sections, so that each is one flag
(`training.batch_size` is `--batch-size`); `Config.from_dict(config.to_dict())` gives the same settings back.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeVar

Section = TypeVar("Section")


class ConfigError(ValueError):
    """A setting out of its range, or one that does not exist."""


def _require(section: object, name: str, ok: bool, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{name} is {getattr(section, name)!r}: expected {expected}")


def _require_choices(section: object) -> None:
    for name, hint in typing.get_type_hints(type(section)).items():
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            _require(section, name, getattr(section, name) in choices, f"one of {', '.join(choices)}")


def _require_path(section: object, name: str) -> None:
    """A URI, taken for a path, would name a folder of this machine."""
    expected = "a path, on a folder that all machines share; without one: --storage-path (docs/cluster.md)"
    _require(section, name, "://" not in (getattr(section, name) or ""), expected)


def _is_plain_uri(text: str) -> bool:
    _, mark, rest = text.partition("://")
    return bool(mark) and "@" not in rest.partition("?")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on."""

    data_dir: str | None = None
    """folder with train.char.bmes, dev.char.bmes and test.char.bmes (or other formats); default: the embedded sample"""
    scheme: Literal["auto", "BMES", "BIOES", "BIO", "IOB1"] = "auto"
    """tag scheme of the corpus"""
    bigram_min_count: int = 2
    """character bigrams seen at least this often in train get a vector; 0: no bigrams"""
    shard_memory: int = 2048
    """MiB of encoded training data that a worker may hold; a larger shard is streamed in every epoch"""
    teacher: str | None = None
    """directory of a model or an ensemble that a student learns from, besides gold; default: gold alone"""
    embeddings: str | None = None
    """file of character vectors to start from, in word2vec or GloVe text format, of --embedding-size numbers each"""
    lexicon: str | None = None
    """file of words, one a line: which of them begin, go on and end at a character is read beside it"""
    init_from: str | None = None
    """run or model directory whose embeddings and BiLSTM to start from: of `pretrain`, or of a tagger"""

    def __post_init__(self) -> None:
        _require_choices(self)
        _require(self, "bigram_min_count", self.bigram_min_count >= 0, "0 or more")
        _require(self, "shard_memory", self.shard_memory >= 1, "at least 1 MiB")
        for name in ("data_dir", "teacher", "embeddings", "lexicon", "init_from"):
            _require_path(self, name)
        if self.embeddings is not None and self.init_from is not None:
            raise ConfigError("embeddings and init_from exclude each other: give --embeddings to pretrain instead")
        if self.lexicon is not None and self.init_from is not None:
            raise ConfigError("lexicon and init_from exclude each other: the other model's BiLSTM has not read words")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the tagger; `config.json` of a model directory keeps it."""

    head: Literal["crf", "softmax"] = "crf"
    """linear-chain CRF, or a softmax a character; both decode legal tag sequences only"""
    embedding_size: int = 128
    """size of a character vector"""
    bigram_size: int = 64
    """size of a bigram vector"""
    word_size: int = 50
    """size of the vector of a word of --lexicon"""
    hidden_size: int = 128
    """size of the LSTM state, per direction"""
    num_layers: int = 1
    """BiLSTM layers"""
    dropout: float = 0.5
    """share of features dropped, a sentence at a time, before, between and after the BiLSTM layers"""

    def __post_init__(self) -> None:
        _require_choices(self)
        for name in ("embedding_size", "bigram_size", "word_size", "hidden_size", "num_layers"):
            _require(self, name, getattr(self, name) >= 1, "1 or more")
        _require(self, "dropout", 0 <= self.dropout < 1, "0 or more and less than 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The optimisation problem; the number of workers does not change it."""

    seed: int = 1234
    """one seed for everything"""
    batch_size: int = 64
    """global sentences per optimiser step, dealt to the workers"""
    train_epochs: int = 30
    """passes over train"""
    token_dropout: float = 0.1
    """share of characters and of bigrams that each epoch replaces by the unknown one"""
    mention_replacement: float = 0.3
    """share of entities that each epoch replaces by others of their type and length from train"""
    adversarial: float = 0.0
    """how far embeddings are moved against the model, a second loss in each step, of over twice the time; 0: none"""
    learning_rate: float = 5e-3
    """peak learning rate of AdamW"""
    weight_decay: float = 0.01
    """decoupled weight decay of AdamW"""
    warmup: float = 0.1
    """share of all steps over which the learning rate rises; then it falls to 0 along a cosine"""
    clip_norm: float = 5.0
    """largest gradient norm; longer gradients are scaled down"""
    patience: int = 0
    """stop after this many epochs without a better dev entity F1; 0: never"""
    teacher_weight: float = 0.5
    """share of what --teacher says in what a student learns; gold tags have the rest"""

    def __post_init__(self) -> None:
        _require_choices(self)
        _require(self, "seed", 0 <= self.seed < 2**32, "0 to 2**32 - 1")
        for name in ("batch_size", "train_epochs"):
            _require(self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("learning_rate", "clip_norm"):
            _require(self, name, 0 < getattr(self, name) < math.inf, "more than 0")
        for name in ("adversarial", "weight_decay", "patience"):
            _require(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("mention_replacement", "teacher_weight"):
            _require(self, name, 0 <= getattr(self, name) <= 1, "0 to 1")
        for name in ("token_dropout", "warmup"):
            _require(self, name, 0 <= getattr(self, name) < 1, "0 or more and less than 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how it runs."""

    device: Literal["auto", "npu", "cuda", "cpu"] = "auto"
    """what each worker claims; auto: the first of npu, cuda, cpu that the cluster has"""
    num_workers: int = 1
    """Ray Train workers"""
    min_workers: int | None = None
    """as few workers as the run goes on with when nodes go, and grows from when nodes come; default: --num-workers"""
    distributed: bool = False
    """one worker per accelerator of the cluster (overrides --num-workers)"""
    local_rank: int | None = None
    """one worker, on this accelerator of this machine"""
    amp_opt_level: Literal["auto", "O0", "O1", "O2"] = "auto"
    """O0: float32; O1: autocast; O2: half weights with float32 masters; auto: O2 on npu and cuda, O0 on cpu"""
    amp_dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    """half precision of O1 and O2; auto: what the device does well"""
    lstm_dtype: Literal["auto", "float32", "half"] = "auto"
    """precision of the LSTM at O1 and O2; half: that of --amp-dtype; auto: float32 on npu, half elsewhere"""
    max_failures: int = 3
    """how often workers that were killed, or whose node is gone, are started again, from the last saved state"""
    output_dir: str | None = None
    """run directory; default: runs/NAME-TIMESTAMP"""
    storage_path: str | None = None
    """URI, such as s3://bucket/runs, below which the run is kept too, for machines that share no folder"""
    overwrite: bool = False
    """replace a finished run in --output-dir"""
    resume: bool = False
    """go on with the run in --output-dir, if there is one"""
    stop_after: int | None = None
    """stop once so many epochs are done, as Ctrl-C does, for --resume to go on"""
    tensorboard: bool = False
    """write TensorBoard event files into the run directory as epochs end"""
    mlflow: str | None = None
    """URI of the MLflow to tell of the run; auto, or no URI: MLFLOW_TRACKING_URI, else mlflow.db beside the run"""

    def __post_init__(self) -> None:
        _require_choices(self)
        _require(self, "num_workers", self.num_workers >= 1, "1 or more")
        _require(self, "stop_after", self.stop_after is None or self.stop_after >= 1, "1 or more")
        few = self.min_workers is None or 1 <= self.min_workers <= self.num_workers
        _require(self, "min_workers", few, f"1 to {self.num_workers}, the --num-workers")
        if self.min_workers is not None and (self.distributed or self.local_rank is not None):
            raise ConfigError("min_workers excludes distributed and local_rank, which fix the number of workers")
        _require(self, "max_failures", self.max_failures >= 0, "0 or more")
        _require_path(self, "output_dir")
        place = "a URI without user or password, such as s3://bucket/runs; credentials belong in the environment"
        _require(self, "storage_path", self.storage_path is None or _is_plain_uri(self.storage_path), place)
        if self.overwrite and self.storage_path is not None:
            raise ConfigError("overwrite does not reach below storage_path: choose another name for output_dir")
        _require(self, "local_rank", self.local_rank is None or self.local_rank >= 0, "0 or more")
        if self.overwrite and self.resume:
            raise ConfigError("overwrite and resume exclude each other: choose one")
        if self.distributed and self.local_rank is not None:
            raise ConfigError("distributed (all accelerators) and local_rank (one of them) exclude each other")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_dict(cls, settings: dict[str, dict[str, Any]]) -> Config:
        """Raises ConfigError for a section or field that does not exist, or a value out of range."""
        sections: dict[str, type[Any]] = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - set(sections))
        if unknown:
            raise ConfigError(f"unknown section {unknown[0]!r}: expected one of {', '.join(sections)}")
        built: dict[str, Any] = {name: section_from_dict(sections[name], values) for name, values in settings.items()}
        return cls(**built)

    def with_fields(self, **values: Any) -> Config:
        """A copy with fields replaced by name, whatever their section."""
        settings = self.to_dict()
        owner = {flag.name: flag.section for flag in iter_flags()}
        for name, value in values.items():
            if name not in owner:
                raise ConfigError(f"unknown setting {name!r}: expected one of {', '.join(owner)}")
            settings[owner[name]][name] = value
        return Config.from_dict(settings)


def section_from_dict(section: type[Section], values: dict[str, Any]) -> Section:
    """One section from JSON values; raises ConfigError for unknown fields and wrong types."""
    hints = typing.get_type_hints(section)
    if not isinstance(values, dict):
        raise ConfigError(f"{section.__name__} is {values!r}: expected its settings by name")
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"unknown setting {name!r}: expected one of {', '.join(hints)}")
        wanted = _plain_types(hints[name])
        fits = isinstance(value, wanted) or (float in wanted and type(value) is int)
        if not fits or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(kind.__name__ for kind in wanted)
            raise ConfigError(f"{name} is {value!r}: expected {names}")
    return section(**values)


class Flag(NamedTuple):
    """One setting as the command line shows it."""

    section: str
    name: str
    type: type
    default: Any
    choices: tuple[str, ...] | None
    help: str


def iter_flags() -> Iterator[Flag]:
    """Every setting, section by section, with its docstring as help."""
    for section in dataclasses.fields(Config):
        kind: type[Any] = type(section.default)
        hints = typing.get_type_hints(kind)
        docs = _field_docstrings(kind)
        for field in dataclasses.fields(kind):
            hint = hints[field.name]
            choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else None
            yield Flag(section.name, field.name, _plain_types(hint)[0], field.default, choices, docs[field.name])


def _plain_types(hint: Any) -> tuple[type, ...]:
    """The run-time types a hint allows: `int | None` -> (int, NoneType), `Literal["a"]` -> (str,)."""
    if typing.get_origin(hint) is Literal:
        return (str,)
    if isinstance(hint, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _field_docstrings(section: type) -> dict[str, str]:
    """The string that stands under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[ast.unparse(field.target)] = str(text.value.value)
    return docs
