"""From text to entities, with a model from disk, in a fresh process too."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_bilstm import Tagger, checkpoint, loop, tags
from ray_bilstm.batches import Shard, TrainingSet
from ray_bilstm.config import Config
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision

ODD = ["", " ", "\u3000王芳\u3000", "王芳😀：女👩‍👩‍👧，汉族🇨🇳", "\n\t", "☃" * 7, "e\u0301王"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory, sentences, vocab) -> Path:
    """A model that knows the tiny corpus by heart."""
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


@pytest.fixture(scope="module")
def tagger(directory, device) -> Tagger:
    return Tagger.load(directory, device=device)


def expected_entities(sentence):
    text = "".join(sentence.tokens)
    return [(text[start:end], type, start, end) for start, end, type in tags.to_spans(sentence.tags, "BMES")]


def test_entities_of_known_texts(tagger, sentences):
    for sentence in sentences:
        assert tagger.predict("".join(sentence.tokens)) == expected_entities(sentence)
    entity = tagger.predict("".join(sentences[0].tokens))[0]
    assert (entity.text, entity.type, entity.start, entity.end) == ("王芳", "NAME", 0, 2)


def test_a_batch_gives_what_single_texts_give(tagger, sentences):
    texts = ["".join(sentence.tokens) for sentence in sentences] + ODD
    texts = (texts * 20)[::-1]  # more than one batch
    single = {text: tagger.predict(text) for text in set(texts)}
    assert tagger.predict(texts) == [single[text] for text in texts]
    assert tagger.predict(tuple(texts[:3])) == [single[text] for text in texts[:3]]


@pytest.mark.parametrize("text", [*ODD, "王芳：女，汉族，硕士。" * 455])
def test_entity_texts_are_slices_of_any_text(tagger, text):
    entities = tagger.predict(text)
    assert all(entity.text == text[entity.start : entity.end] != "" for entity in entities)
    assert all(one.end <= other.start for one, other in itertools.pairwise(entities))
    (labels,) = tagger.tag([text])
    assert len(labels) == len(text)
    assert tags.illegal_positions(labels, "BMES") == []
    assert len(entities) > 400 or len(text) < 5000


def test_nothing_in_nothing_out(tagger):
    assert tagger.predict("") == []
    assert tagger.predict([]) == tagger.tag([]) == []
    assert tagger.predict(["", ""]) == [[], []]


def test_scores(tagger, sentences):
    scores = tagger.score(sentences)
    assert scores["entity"]["f1"] == scores["token"]["f1"] == 1.0
    new = sentences[0]._replace(tags=("B-NEW", "E-NEW", *sentences[0].tags[2:]))
    scores = tagger.score([new, *sentences[1:]])
    assert scores["per_type"]["NEW"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert scores["entity"]["f1"] < 1
    empty = sentences[0]._replace(tokens=(), tags=())
    assert tagger.score([empty])["entity"]["support"] == tagger.score([])["entity"]["support"] == 0


def test_a_fresh_process_in_another_folder(tmp_path, directory, sentences):
    texts = ["".join(sentence.tokens) for sentence in sentences]
    program = (
        "import json, sys; from ray_bilstm import Tagger; sys.stdin.reconfigure(encoding='utf-8');"
        "print(json.dumps(Tagger.load(sys.argv[1]).predict(json.load(sys.stdin))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, directory],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [[tuple(entity) for entity in entities] for entities in json.loads(done.stdout)] == [
        expected_entities(sentence) for sentence in sentences
    ]
    assert list(tmp_path.iterdir()) == []
