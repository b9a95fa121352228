"""From text to entities, with a model from disk, in a fresh process too."""

import itertools

import fresh_process
import pytest
import torch

from ray_bilstm import Tagger, tags

ODD = ["", " ", "\u3000王芳\u3000", "王芳😀：女👩‍👩‍👧，汉族🇨🇳", "\n\t", "☃" * 7, "e\u0301王"]


@pytest.fixture(scope="module")
def tagger(trained, device) -> Tagger:
    return Tagger.load(trained, device=device)


def expected_entities(sentence):
    text = "".join(sentence.tokens)
    return [(text[start:end], type, start, end) for start, end, type in tags.to_spans(sentence.tags, "BMES")]


def without_scores(entities):
    return [tuple(entity[:4]) for entity in entities]


def test_entities_of_known_texts(tagger, sentences):
    for sentence in sentences:
        assert without_scores(tagger.predict("".join(sentence.tokens))) == expected_entities(sentence)
    entity = tagger.predict("".join(sentences[0].tokens))[0]
    assert (entity.text, entity.type, entity.start, entity.end) == ("王芳", "NAME", 0, 2)


def test_a_batch_gives_what_single_texts_give(tagger, sentences):
    texts = ["".join(sentence.tokens) for sentence in sentences] + ODD
    texts = (texts * 20)[::-1]  # more than one batch
    single = {text: tagger.predict(text) for text in set(texts)}
    found = tagger.predict(texts)
    assert list(map(without_scores, found)) == [without_scores(single[text]) for text in texts]
    for text, entities in zip(texts, found, strict=True):  # float32 rounds by the shape of the batch
        assert [e.score for e in entities] == pytest.approx([e.score for e in single[text]], abs=1e-5)
    assert tagger.predict(texts, scores=False) == [tagger.predict(text, scores=False) for text in texts]
    assert list(map(without_scores, tagger.predict(tuple(texts[:3])))) == list(map(without_scores, found[:3]))


def test_scores_are_the_share_of_the_paths_that_say_so(tagger, sentences):
    """The probabilities of the best paths add up to those of the entities in them, as far as the list goes."""
    for text in ("".join(sentence.tokens) for sentence in sentences):
        paths = tagger.nbest(text, 300)
        seen = sum(path.score for path in paths)
        assert 0.9 < seen <= 1 + 1e-9
        assert [path.score for path in paths] == sorted((path.score for path in paths), reverse=True)
        for entity in tagger.predict(text):
            mass = sum(path.score for path in paths if entity[:4] in without_scores(path.entities))
            assert mass - 1e-6 <= entity.score <= mass + 1 - seen + 1e-6
    assert all(entity.score is None for entity in tagger.predict(text, scores=False))


def test_alternatives(tagger, sentences):
    text = "".join(sentences[0].tokens)
    paths = tagger.nbest(text, 5)
    assert len({tuple(path.tags) for path in paths}) == 5
    assert paths[0].tags == tagger.tag([text])[0]
    assert without_scores(paths[0].entities) == without_scores(tagger.predict(text))
    assert [e.score for e in paths[0].entities] == pytest.approx([e.score for e in tagger.predict(text)], abs=1e-5)
    for path in paths:
        assert tags.illegal_positions(path.tags, "BMES") == []
        assert [(start, end, type) for _, type, start, end, _ in path.entities] == tags.to_spans(path.tags, "BMES")
    assert tagger.nbest("", 3) == [([], [], 1.0)]
    assert len(tagger.nbest("王", 1000)) < 1000  # a token has so many legal tags
    with pytest.raises(ValueError, match="count: got 0"):
        tagger.nbest(text, 0)


def test_tokens_count_where_a_text_is_a_list_of_them(tagger):
    whole = tagger.predict("王芳：女，汉族，硕士。", scores=False)
    assert tagger.predict([list("王芳：女，汉族，硕士。")], scores=False) == [whole]
    (found,) = tagger.predict([["王", "芳", "long-word", *"，汉族"]], scores=False)
    assert ("王芳", "NAME", 0, 2, None) in found
    texts = {entity.text for path in tagger.nbest(["王", "Ada", "Lovelace"], 500) for entity in path.entities}
    assert texts >= {"王", "王Ada", "王Ada Lovelace", "Ada Lovelace", "Lovelace"}


def test_a_stream_gives_what_a_list_gives_and_reads_only_so_far_ahead(tagger, sentences, monkeypatch):
    monkeypatch.setattr("ray_bilstm.predict.AHEAD_TEXTS", 4)
    monkeypatch.setattr("ray_bilstm.predict.AHEAD_CHARACTERS", 60)
    texts = ["".join(sentence.tokens) for sentence in sentences] * 3
    taken, most = 0, 0

    def read():
        nonlocal taken
        for text in texts:
            taken += 1
            yield text

    found = []
    for entities in tagger.predict_iter(read(), scores=False):
        most = max(most, taken - len(found))
        found.append(entities)
    assert found == tagger.predict(texts, scores=False)
    assert most == 4
    assert list(tagger.predict_iter([])) == []


def test_a_long_text_is_read_in_parts(tagger):
    sentence = "王芳：女，汉族，硕士。"
    (expected,) = tagger.predict([sentence], scores=False)
    found = tagger.predict("\n" + sentence * 200, scores=False)
    assert len(found) == 200 * len(expected)
    shifted = [
        (e.text, e.type, 1 + at * len(sentence) + e.start, 1 + at * len(sentence) + e.end)
        for at in range(200)
        for e in expected
    ]
    assert without_scores(found) == shifted


def test_a_long_text_can_be_read_whole(tagger):
    text = "王芳汉族硕士" * 300
    found = tagger.predict(text, scores=False, whole=True)
    assert [(start, end, type) for _, type, start, end, _ in found] == tags.to_spans(tagger.tag([text])[0], "BMES")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_are_probabilities_in_any_precision(trained, device, sentences, dtype):
    tagger = Tagger.load(trained, device=device, dtype=dtype)
    texts = ["".join(sentence.tokens) for sentence in sentences]
    scores = [entity.score for entities in tagger.predict(texts) for entity in entities]
    assert len(scores) > 10
    assert all(0 < score <= 1 for score in scores)
    assert sum(path.score for path in tagger.nbest(texts[0], 200)) <= 1 + 1e-9


def test_an_entity_at_a_cut_is_found_once_and_whole(tagger):
    """Without any mark to cut at, cuts fall into entities."""
    text = "王芳汉族硕士" * 300
    found = tagger.predict(text, scores=False)
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))
    around = [e for e in found if 400 < e.start < 600]
    inside = {(e.text, e.type) for e in found if 200 < e.start < 400}
    assert {(e.text, e.type) for e in around} <= inside


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


def test_a_fresh_process_in_another_folder(tmp_path, trained, sentences):
    texts = ["".join(sentence.tokens) for sentence in sentences]
    program = (
        "import json, sys; from ray_bilstm import Tagger;"
        "print(json.dumps(Tagger.load(sys.argv[1]).predict(json.load(sys.stdin), scores=False)))"
    )
    found = fresh_process.answer(program, trained, told=texts, folder=tmp_path)
    assert [without_scores(entities) for entities in found] == [expected_entities(sentence) for sentence in sentences]
    assert list(tmp_path.iterdir()) == []
