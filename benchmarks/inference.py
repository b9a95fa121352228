#!/usr/bin/env python3
"""Tagging the test set on one thread: ours, spaCy's blank Chinese NER, flair's SequenceTagger, sklearn-crfsuite.

python benchmarks/inference.py --data-dir ResumeNER

Everyone is trained for one pass over train (crfsuite: 20 iterations) and gets the test sentences as lists of
characters; what is timed is all from there to tags or entities. Batches of 64 for spaCy and flair, their own choice for
the others. Ours has the shape that all comparisons use, without bigrams, and again the default recipe, with them. Then
single sentences, one after another: the latency of a request. A ratio is CPU time over that of ours in bfloat16 where
this processor computes it, else in float32. flair takes minutes to train.
"""

import statistics
import sys
import time

import numpy as np
import torch
from measuring import Training, compete, installed, make_parser, median, ratios, read, report

SINGLE = 200


def ours(data_dir, dtype, reference=True):
    from ray_bilstm import Tagger

    training = Training(data_dir, reference=reference)
    training.epoch()
    return Tagger(training.model, training.vocab, dtype=dtype).tag


def spacy(data_dir):
    import random

    import spacy
    from spacy.tokens import Doc
    from spacy.training import Example
    from spacy.util import minibatch

    from ray_bilstm.tags import to_spans

    corpus = read(data_dir)
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("zh")
    nlp.add_pipe("ner")

    def document(tokens):
        return Doc(nlp.vocab, words=list(tokens), spaces=[False] * len(tokens))

    examples = []
    for tokens, tags, _ in corpus.train:
        gold = document(tokens)
        gold.ents = [
            gold.char_span(len("".join(tokens[:s])), len("".join(tokens[:e])), t)
            for s, e, t in to_spans(tags, corpus.scheme)
        ]
        examples.append(Example(document(tokens), gold))
    nlp.initialize(lambda: examples)
    random.Random(0).shuffle(examples)
    for batch in minibatch(examples, 64):
        nlp.update(batch)
    return lambda sentences: [doc.ents for doc in nlp.pipe(map(document, sentences), batch_size=64)]


def flair(data_dir):
    import flair
    from flair.data import Corpus, Dictionary, Sentence
    from flair.datasets import FlairDatapointDataset
    from flair.embeddings import OneHotEmbeddings
    from flair.models import SequenceTagger

    from ray_bilstm.tags import to_spans

    corpus = read(data_dir)
    flair.set_seed(0)
    flair.logger.setLevel("ERROR")  # it shows the whole vocabulary

    def labelled(sentence):
        made = Sentence(list(sentence.tokens))
        for start, end, type in to_spans(sentence.tags, corpus.scheme):
            made[start:end].add_label("ner", type)
        return made

    sentences = [labelled(sentence) for sentence in corpus.train]
    whole = Corpus(train=FlairDatapointDataset(sentences), sample_missing_splits=False)
    labels = Dictionary(add_unk=False)
    labels.span_labels = True
    for type in sorted({t for s in corpus.train for *_, t in to_spans(s.tags, corpus.scheme)}):
        labels.add_item(type)
    embeddings = OneHotEmbeddings.from_corpus(whole, field="text", embedding_length=128, min_freq=1)
    tagger = SequenceTagger(embeddings, labels, tag_type="ner", hidden_size=128, allow_unk_predictions=False)
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=3e-3)
    order = np.random.default_rng(0).permutation(len(sentences))
    for start in range(0, len(order), 64):
        loss, count = tagger.forward_loss([sentences[i] for i in order[start : start + 64]])
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    tagger.eval()

    def tag(found):
        made = [Sentence(list(tokens)) for tokens in found]
        tagger.predict(made, mini_batch_size=64)
        return [sentence.get_spans("ner") for sentence in made]

    return tag


def crfsuite(data_dir):
    import sklearn_crfsuite

    def features(tokens):
        padded = ["<s>", *tokens, "</s>"]
        return [
            {
                "c": padded[i],
                "c-1": padded[i - 1],
                "c+1": padded[i + 1],
                "c-1c": padded[i - 1] + padded[i],
                "cc+1": padded[i] + padded[i + 1],
            }
            for i in range(1, len(padded) - 1)
        ]

    train = read(data_dir).train
    model = sklearn_crfsuite.CRF(algorithm="lbfgs", max_iterations=20)
    model.fit([features(s.tokens) for s in train], [list(s.tags) for s in train])
    return lambda sentences: model.predict([features(tokens) for tokens in sentences])


def whole_test_set(make, data_dir, *arguments):
    tag = make(data_dir, *arguments)
    sentences = [sentence.tokens for sentence in read(data_dir).test]
    return lambda: len(tag(sentences))


def one_by_one(make, data_dir, *arguments):
    tag = make(data_dir, *arguments)
    sentences = [[sentence.tokens] for sentence in read(data_dir).test[:SINGLE]]

    def run():
        seconds = []
        for sentence in sentences:
            started = time.perf_counter()
            tag(sentence)
            seconds.append(time.perf_counter() - started)
        return np.percentile(seconds, [50, 99]).tolist()

    return run


def main() -> int:
    options = make_parser(__doc__).parse_args()
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    contestants = {"ours float32": (ours, torch.float32), "default float32": (ours, torch.float32, False)}
    if half:
        contestants["ours bfloat16"] = (ours, torch.bfloat16)
        contestants["default bfloat16"] = (ours, torch.bfloat16, False)
    peers = {"spacy": spacy, "flair": flair, "sklearn-crfsuite": crfsuite}
    contestants |= {name: (make,) for name, make in peers.items() if installed(name)}
    best = "ours bfloat16" if half else "ours float32"
    test = len(read(options.data_dir).test)

    def measured(task):
        found = {name: (task, (make, options.data_dir, *rest)) for name, (make, *rest) in contestants.items()}
        return compete(found, options.rounds)

    whole, single = measured(whole_test_set), measured(one_by_one)
    figures, found = {}, {}
    print(f"{'':18}{'sentences/CPU s':>17}{'ratio':>8}{'lowest':>8}{'one: p50 ms':>13}{'p99 ms':>9}")
    for name, costs in whole.items():
        pairs = ratios(costs, whole[best])
        p50, p99 = (1e3 * statistics.median(column) for column in zip(*(c.value for c in single[name]), strict=True))
        rate = test / median(costs).cpu
        figures[name] = {"sentences_per_cpu_second": rate, "p50_ms": p50, "p99_ms": p99}
        if name in peers:
            found[name.removeprefix("sklearn-")] = statistics.median(pairs)
        print(f"{name:18}{rate:17,.0f}{statistics.median(pairs):8.2f}{min(pairs):8.2f}{p50:13.2f}{p99:9.2f}")
    report(options.json, ratios=found, figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
