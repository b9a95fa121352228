#!/usr/bin/env python3
"""Characters a second, from texts to entities on one thread: with scores and without, long texts, files, ONNX Runtime.

python benchmarks/predict.py --data-dir ResumeNER

The model is trained for one pass over train; the texts are the sentences of the test set, four times, and once all in
one text. A figure is characters over CPU seconds of the median round.
"""

import io
import sys
import tempfile
from pathlib import Path

import torch
from measuring import Training, compete, installed, make_parser, median, read, report

TIMES = 4


def texts_of(data_dir):
    return ["".join(sentence.tokens) for sentence in read(data_dir).test] * TIMES


def tagger_of(data_dir, dtype=torch.float32):
    from ray_bilstm import Tagger

    training = Training(data_dir)
    training.epoch()
    return Tagger(training.model, training.vocab, dtype=dtype)


def predict(data_dir, dtype, scores):
    tagger, texts = tagger_of(data_dir, dtype), texts_of(data_dir)
    return lambda: len(tagger.predict(texts, scores=scores))


def one_text(data_dir):
    tagger, text = tagger_of(data_dir), "".join(texts_of(data_dir))
    return lambda: len(tagger.predict(text, scores=False))


def files(data_dir):
    """What the command does between its file and its file."""
    from ray_bilstm.cli_predict import tag
    from ray_bilstm.texts import iter_jsonl, iter_texts

    tagger, data = tagger_of(data_dir), "\n".join(texts_of(data_dir)).encode()

    def run():
        texts = iter_texts(io.BytesIO(data), "texts", "text")
        return sum(map(len, iter_jsonl(tag(tagger, texts, scores=True, at_once=False))))

    return run


def exported(data_dir):
    from ray_bilstm.checkpoint import write_model
    from ray_bilstm.config import Config
    from ray_bilstm.export import export
    from ray_bilstm.onnx_tagger import OnnxTagger

    tagger, texts = tagger_of(data_dir), texts_of(data_dir)
    with tempfile.TemporaryDirectory() as folder:
        weights = dict(tagger.model.named_parameters())
        write_model(Path(folder) / "model", weights, config=Config(), vocab=tagger.vocab)
        export(Path(folder) / "model", Path(folder) / "onnx")
        onnx = OnnxTagger(Path(folder) / "onnx", threads=1)
    return lambda: len(onnx.predict(texts))


def main() -> int:
    options = make_parser(__doc__).parse_args()
    contestants = {
        "float32": (predict, (options.data_dir, torch.float32, False)),
        "float32, scores": (predict, (options.data_dir, torch.float32, True)),
        "one long text": (one_text, (options.data_dir,)),
        "text file to JSON lines, scores": (files, (options.data_dir,)),
    }
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        contestants["bfloat16"] = (predict, (options.data_dir, torch.bfloat16, False))
        contestants["bfloat16, scores"] = (predict, (options.data_dir, torch.bfloat16, True))
    if installed("onnx") and installed("onnxruntime"):
        contestants["ONNX Runtime"] = (exported, (options.data_dir,))
    characters, figures = sum(map(len, texts_of(options.data_dir))), {}
    print(f"{'':34}{'characters a CPU second':>25}")
    for name, costs in compete(contestants, options.rounds).items():
        figures[name] = characters / median(costs).cpu
        print(f"{name:34}{figures[name]:25,.0f}")
    report(options.json, ratios={}, figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
