"""Models that vote: what they say is the mean, each with its own vocabulary, and the directory moves anywhere."""

import dataclasses
import json
import re
import shutil

import fresh_process
import numpy as np
import pytest
import torch

from ray_bilstm import Tagger, checkpoint, cli, ensemble_directory, run_directory, search_directory, tags
from ray_bilstm.batches import Shard
from ray_bilstm.checkpoint import CheckpointError
from ray_bilstm.config import Config
from ray_bilstm.corpus import write_sentences
from ray_bilstm.ensemble import Ensemble, merge
from ray_bilstm.ensemble_directory import ENSEMBLE, read_tagger, write_ensemble
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.space import Plan, Trial, parse_axes
from ray_bilstm.vocab import Vocab

ODD = ["王芳", "", "☃" * 7, "王芳😀：女，汉族"]


def write_model(path, vocab, *, seed, **fields):
    """A model directory with random weights, far enough apart that two seeds seldom agree."""
    config = Config().with_fields(**{"embedding_size": 8, "bigram_size": 4, "hidden_size": 6} | fields)
    torch.manual_seed(seed)
    weights = {
        name: weight.detach() + torch.randn_like(weight)
        for name, weight in BiLstmCrf(config.model, vocab).named_parameters()
    }
    checkpoint.write_model(path, weights, config=config, vocab=vocab)
    return path


@pytest.fixture
def vocabs(sentences, vocab):
    """Of all sentences, of some and of names from outside, and of some without bigrams; the tags are those of all."""
    part = Vocab.build(sentences[3:], scheme="BMES", bigram_min_count=1)
    known = {"tags": vocab.tags, "scheme": "BMES"}
    smaller = Vocab(chars=part.chars, bigrams=part.bigrams, **known).with_outside(["☃"], ["☃☃"])
    return [vocab, smaller, Vocab(chars=part.chars[::-1], bigrams=(), **known)]


@pytest.fixture
def models(tmp_path, vocabs):
    return [write_model(tmp_path / f"run-{i}" / "best", vocab, seed=i) for i, vocab in enumerate(vocabs)]


@pytest.fixture
def texts(sentences):
    return ["".join(sentence.tokens) for sentence in sentences] + ODD


def marginals(model, vocab, text):
    """Of one text, by the vocabulary of the model: (L, T)."""
    shard = Shard(vocab.encode([text]), np.arange(1))
    with torch.no_grad():
        return model.marginals(shard.batch(shard.rows, max(1, len(text)), sentences=1))[0]


def test_an_ensemble_of_one_is_that_model(tmp_path, models, texts, sentences):
    assert write_ensemble(tmp_path / "alone", models[:1]) == 1
    alone, single = Tagger.load(tmp_path / "alone"), Tagger.load(models[0])
    assert alone.tag(texts) == single.tag(texts)
    assert alone.score(sentences) == single.score(sentences)
    assert isinstance(alone.model, BiLstmCrf)


def test_marginals_are_the_mean_of_members_that_each_use_their_own_vocabulary(tmp_path, models, texts):
    write_ensemble(tmp_path / "all", models)
    model, vocab = read_tagger(tmp_path / "all")
    assert isinstance(model, Ensemble)
    assert not model.training
    for text in texts:
        expected = torch.stack([marginals(*read_tagger(path), text) for path in models]).mean(0)
        torch.testing.assert_close(marginals(model, vocab, text), expected)


def test_the_best_legal_path_of_the_mean_is_found(tmp_path, models, texts):
    """Against all paths of the first three characters of each text."""
    write_ensemble(tmp_path / "all", models)
    tagger = Tagger.load(tmp_path / "all")
    names = tagger.vocab.tags
    paths_P3 = torch.cartesian_prod(*[torch.arange(len(names))] * 3)
    legal = [not tags.illegal_positions([names[i] for i in path], "BMES") for path in paths_P3.tolist()]
    paths_P3 = paths_P3[torch.tensor(legal)]
    heads = [text[:3] for text in texts if len(text) >= 3]
    disagree = 0
    for head, labels in zip(heads, tagger.tag(heads), strict=True):
        scores_3T = marginals(tagger.model, tagger.vocab, head).log()
        best = paths_P3[scores_3T[torch.arange(3), paths_P3].sum(1).argmax()]
        assert labels == [names[i] for i in best]
        disagree += any(labels != Tagger.load(path).tag([head])[0] for path in models)
    assert disagree, "the members say different things"


def test_texts_of_any_length_get_legal_tags(tmp_path, models, texts):
    write_ensemble(tmp_path / "all", models)
    tagger, half = (Tagger.load(tmp_path / "all", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    many = [*texts * 20, "王芳：女，汉族，硕士。" * 300]
    for labels, text in zip(tagger.tag(many), many, strict=True):
        assert len(labels) == len(text)
        assert tags.illegal_positions(labels, "BMES") == []
    assert tagger.tag(texts) == [tagger.tag([text])[0] for text in texts], "whatever they are batched with"
    assert [len(labels) for labels in half.tag(texts)] == [len(text) for text in texts]
    assert tagger.predict([]) == []


def test_scores_are_those_of_the_mixture(tmp_path, models, texts):
    """An entity, and a path, is as probable as the mean of the members has it."""
    write_ensemble(tmp_path / "all", models)
    tagger, text = Tagger.load(tmp_path / "all"), texts[0]
    paths = tagger.nbest(text[:3], 10**6)
    assert sum(path.score for path in paths) == pytest.approx(1.0)
    members = [{tuple(p.tags): p.score for p in Tagger.load(model).nbest(text[:3], 10**6)} for model in models]
    for path in paths:
        assert path.score == pytest.approx(sum(member[tuple(path.tags)] for member in members) / len(models))
    assert paths[0].tags == tagger.tag([text[:3]])[0]
    found = [entity for several in tagger.predict([text[:3] for text in texts]) for entity in several]
    assert found
    for entity in paths[0].entities:
        mass = sum(path.score for path in paths if entity[:4] in [other[:4] for other in path.entities])
        assert entity.score == pytest.approx(mass)


def test_ensembles_are_taken_apart(tmp_path, models, texts):
    write_ensemble(tmp_path / "two", models[:2])
    assert write_ensemble(tmp_path / "three", [tmp_path / "two", models[2]]) == 3
    assert write_ensemble(tmp_path / "same", models) == 3
    assert Tagger.load(tmp_path / "three").tag(texts) == Tagger.load(tmp_path / "same").tag(texts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tags": ("O", "S-ORG")}, "got tags O, S-ORG, expected O, "),
        ({"scheme": "BIOES", "tags": ("O", "S-ORG")}, "got scheme BIOES, expected BMES as in"),
    ],
)
def test_models_with_other_tags_do_not_vote(tmp_path, models, vocab, changed, message):
    other = write_model(tmp_path / "other", dataclasses.replace(vocab, **changed), seed=9)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(other))}: {message}.*{re.escape(str(models[0]))}"):
        write_ensemble(tmp_path / "all", [*models, other])
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


def test_only_a_new_or_empty_directory_is_written(tmp_path, models):
    with pytest.raises(CheckpointError, match=f"{models[0].parent}: exists, expected a new or empty directory"):
        write_ensemble(models[0].parent, models)
    with pytest.raises(CheckpointError, match=r"nothing: got no model\.safetensors"):
        write_ensemble(tmp_path / "all", [models[0], tmp_path / "nothing"])
    (tmp_path / "all").mkdir()
    write_ensemble(tmp_path / "all", models)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [ENSEMBLE, "member-1", "member-2", "member-3"]
    with pytest.raises(CheckpointError, match="exists"):
        write_ensemble(tmp_path / "all", models)


def test_half_an_ensemble_is_never_seen(tmp_path, models, monkeypatch):
    written = []

    def fail_late(path, content):
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr(ensemble_directory, "write_file", fail_late)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        write_ensemble(tmp_path / "all", models)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{}", '{"format": 2, "members": ["member-1"]}', '{"format": 1, "members": []}']
    + [json.dumps({"format": 1, "members": [name]}) for name in ("../run-0/best", "..", "", "/tmp", 3)],
)
def test_a_damaged_description_is_named(tmp_path, models, content):
    write_ensemble(tmp_path / "all", models)
    (tmp_path / "all" / ENSEMBLE).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/all/{ENSEMBLE}: not the description of an ensemble"):
        Tagger.load(tmp_path / "all")


def test_a_damaged_member_is_named(tmp_path, models):
    write_ensemble(tmp_path / "all", models)
    (tmp_path / "all" / "member-2" / checkpoint.MODEL).write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=f"member-2/{checkpoint.MODEL}: cannot be read"):
        Tagger.load(tmp_path / "all")


def test_a_fresh_process_in_another_folder(tmp_path, models, texts):
    """Moved, and its models deleted."""
    write_ensemble(tmp_path / "all", models)
    expected = Tagger.load(tmp_path / "all").tag(texts)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "all").rename(tmp_path / "moved")
    for model in models:
        shutil.rmtree(model)
    program = (
        "import json, sys; from ray_bilstm import Tagger;"
        "print(json.dumps(Tagger.load('../moved').tag(json.load(sys.stdin))))"
    )
    assert fresh_process.answer(program, told=texts, folder=tmp_path / "elsewhere") == expected


def test_the_commands_take_an_ensemble_like_a_model(tmp_path, models, sentences, capsys):
    out = tmp_path / "all"
    assert cli.main(["ensemble", str(out), *map(str, models)]) == 0
    assert capsys.readouterr().out == f"{out}: 3 models that vote\n"
    text = "".join(sentences[0].tokens)
    assert cli.main(["predict", str(out), "--text", text, "--no-scores"]) == 0
    shown = json.loads(capsys.readouterr().out)
    found = [entity._asdict() for entity in Tagger.load(out).predict(text, scores=False)]
    assert [entity | {"score": None} for entity in shown["entities"]] == found
    write_sentences(tmp_path / "test.bmes", sentences, scheme="BMES")
    assert cli.main(["evaluate", str(out), str(tmp_path / "test.bmes"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["entity"].items() >= Tagger.load(out).score(sentences)["entity"].items()
    assert cli.main(["ensemble", str(out), str(models[0])]) == 1
    assert capsys.readouterr().err.startswith(f"error: {out}: exists, expected")


def test_a_search_gives_the_seeds_of_its_best_configuration(tmp_path, vocab, capsys):
    search, plan = tmp_path / "search", Plan(seeds=(1, 2), axes=parse_axes(["batch_size=16,32"]))
    search_directory.open_search(search, Config(), plan)
    for trial, f1 in zip(plan.trials(), (0.1, 0.2, 0.8, 0.7), strict=True):
        folder = search_directory.trial_path(search, trial)
        search_directory.write_status(search, trial, "finished")
        scores = {"entity": {"f1": f1}, "token": {"f1": f1}}
        run_directory.write_history(folder, [{"epoch": 1, "dev": {"entity": {"f1": f1}}}])
        run_directory.close_run(folder, {"dev": scores, "test": scores})
        write_model(folder / "best", vocab, seed=int(100 * f1))
    best = search_directory.best_models(search)
    assert best == [search_directory.trial_path(search, Trial({"batch_size": 32}, seed)) / "best" for seed in (1, 2)]
    assert cli.main(["ensemble", str(tmp_path / "all"), str(search)]) == 0
    assert "2 models that vote" in capsys.readouterr().out
    for number, model in enumerate(best, 1):
        copy = tmp_path / "all" / f"member-{number}" / checkpoint.MODEL
        assert copy.read_bytes() == (model / checkpoint.MODEL).read_bytes()


def test_what_members_know_is_known(vocabs):
    vocab = merge({str(i): vocab for i, vocab in enumerate(vocabs)})
    assert set(vocab.chars) == set(vocabs[0].chars) | set(vocabs[1].chars) | {"☃"}
    assert "☃☃" in vocab.bigrams
    assert len(set(vocab.chars)) == len(vocab.chars)
    assert (vocab.tags, vocab.scheme) == (vocabs[0].tags, "BMES")
