"""What tests share: `--device`, a tiny invented corpus with its vocabulary and a model of it, and ResumeNER where it is
at hand."""

import os
import re
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from ray_bilstm import checkpoint, loop
from ray_bilstm.accelerator import ACCELERATORS, worker_device
from ray_bilstm.batches import Shard, TrainingSet
from ray_bilstm.config import Config
from ray_bilstm.corpus import Sentence
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.tags import Span, from_spans
from ray_bilstm.vocab import Vocab

hypothesis.settings.register_profile("quiet", max_examples=50, deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("quiet")

TEXTS = """
[王芳|NAME]：女，[汉族|RACE]，[硕士|EDU]。
[李强|NAME]先生，现任[东海银行|ORG][副行长|TITLE]，
曾任[长河汽车公司|ORG]工程师。
[汉|RACE]，[博士|EDU]，[董事|TITLE]、[总裁|TITLE]，
无境外居留权。
[赵敏|NAME]，[本科|EDU]，毕业于[南山大学|ORG]。
是
[钱伟|NAME]：[男中音|TITLE]，[苗族|RACE]，任[南山大学|ORG][教授|TITLE]，
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=tuple(ACCELERATORS), help="device of the tensor tests")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") != "cuda":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are tried without a GPU too


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of `--device`, prepared as a worker prepares it; on cuda, float32 is float32 in an LSTM too."""
    torch.backends.cudnn.allow_tf32 = False
    return worker_device(ACCELERATORS[request.config.getoption("--device")])


@pytest.fixture(scope="session", autouse=True)
def one_thread(device: torch.device) -> None:
    """The device comes first: autograd makes its threads for the devices that there are at the first backward."""
    torch.set_num_threads(1)


def from_marks(text: str) -> Sentence:
    """`"[王芳|NAME]："` -> the sentence with its BMES tags."""
    characters, spans = "", []
    for words, type, plain in re.findall(r"\[(.+?)\|(\w+)\]|([^\[]+)", text):
        if type:
            spans.append(Span(len(characters), len(characters) + len(words), type))
        characters += words or plain
    return Sentence(tuple(characters), tuple(from_spans(spans, len(characters), "BMES")), 1)


@pytest.fixture(scope="session")
def sentences() -> list[Sentence]:
    """Eight sentences of 1 to 22 characters, BMES."""
    return [from_marks(line) for line in TEXTS.split()]


@pytest.fixture(scope="session")
def vocab(sentences: list[Sentence]) -> Vocab:
    return Vocab.build(sentences, scheme="BMES", bigram_min_count=1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, sentences, vocab) -> Path:
    """The directory of a model that knows the tiny corpus by heart."""
    config = Config().with_fields(
        embedding_size=16, bigram_size=8, hidden_size=16, dropout=0.0, batch_size=2, train_epochs=20, learning_rate=0.02
    )
    shard = Shard(vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences]), np.arange(len(sentences)))
    lengths = shard.lengths[:-1].numpy()
    torch.manual_seed(0)
    progress = loop.fit(
        BiLstmCrf(config.model, vocab),
        train=TrainingSet(lambda: [shard], lengths, batch_size=2, seed=0),
        dev=shard,
        scorer=Scorer(vocab.tags, vocab.scheme),
        config=config.training,
        precision=Precision("O0", dtype=torch.float32, device=torch.device("cpu")),
        progress=loop.Progress(),
        on_epoch=lambda record, progress: None,
    )
    path = tmp_path_factory.mktemp("run") / "best"
    checkpoint.write_model(path, progress.best_weights, config=config, vocab=vocab)
    return path


@pytest.fixture(scope="session")
def resume_ner() -> Path:
    """The folder of ResumeNER: RESUME_NER_DIR, else ../shared/ResumeNER beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "ResumeNER"
    folder = Path(os.environ.get("RESUME_NER_DIR", beside))
    if not (folder / "train.char.bmes").is_file():
        pytest.skip(f"no ResumeNER in {folder}: set RESUME_NER_DIR")
    return folder
