#!/usr/bin/env python3
"""Training epochs: ours, a BiLSTM-CRF as a tutorial would write it, and the bare nn.LSTM; on one thread.

python benchmarks/train_step.py --data-dir ResumeNER

Character embedding 128, hidden 128 per direction, one layer, CRF, batches of 64; no bigrams, no dropout. The tutorial
packs its sequences, looks characters up one by one, and has pytorch-crf; it gets batches sorted by length, which is
kinder than the shuffled ones that tutorials have. The bare LSTM gets random inputs of our batches' shapes: nothing
else is computed, forward and backward. It runs once with the memory allocator as a process finds it, and once with
ours (`keep_freed_memory`), which is most of what separates the two.

A ratio is CPU time over ours: above 1, ours is faster.
"""

import statistics
import sys

import numpy as np
import torch
from measuring import Training, compete, installed, make_parser, median, ratios, read, report
from torch import nn

from ray_bilstm import accelerator
from ray_bilstm.batches import plan_epoch


def ours(data_dir, level, reference):
    return Training(data_dir, level=level, reference=reference).epoch


class Tutorial(nn.Module):
    """Embedding, packed BiLSTM, linear layer, CRF."""

    def __init__(self, characters, tags):
        import torchcrf

        super().__init__()
        self.embedding = nn.Embedding(characters, 128, padding_idx=0)
        self.lstm = nn.LSTM(128, 128, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(256, tags)
        self.crf = torchcrf.CRF(tags, batch_first=True)

    def forward(self, characters, tags, lengths, mask):
        embedded = self.embedding(characters)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return -self.crf(self.linear(states), tags, mask=mask, reduction="mean")


def tutorial(data_dir, device="cpu"):
    sentences = sorted(read(data_dir).train, key=lambda sentence: len(sentence.tokens))
    characters, tags = {"<pad>": 0, "<unk>": 1}, {}
    for sentence in sentences:
        for token, tag in zip(sentence.tokens, sentence.tags, strict=True):
            characters.setdefault(token, len(characters))
            tags.setdefault(tag, len(tags))
    torch.manual_seed(0)
    model = Tutorial(len(characters), len(tags)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def epoch():
        for start in range(0, len(sentences), 64):
            batch = sentences[start : start + 64]
            lengths = torch.tensor([len(sentence.tokens) for sentence in batch])
            ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
            gold = torch.zeros_like(ids)
            for i, sentence in enumerate(batch):
                ids[i, : lengths[i]] = torch.tensor([characters.get(token, 1) for token in sentence.tokens])
                gold[i, : lengths[i]] = torch.tensor([tags[tag] for tag in sentence.tags])
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            loss = model(ids.to(device), gold.to(device), lengths, mask.to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

    return epoch


def bare_lstm(data_dir, dtype, same_allocator):
    sentences = read(data_dir).train
    lengths = np.array([len(sentence.tokens) for sentence in sentences])
    plan = plan_epoch(lengths, batch_size=64, seed=0, epoch=1, shapes=None)
    shapes = [(len(step.rows), step.length) for step in plan]
    if same_allocator:
        accelerator.keep_freed_memory()
    torch.manual_seed(0)
    lstm = nn.LSTM(128, 128, batch_first=True, bidirectional=True).to(dtype)
    inputs = [torch.randn(*shape, 128, dtype=dtype, requires_grad=True) for shape in shapes]

    def epoch():
        for batch in inputs:
            lstm.zero_grad(set_to_none=True)
            batch.grad = None
            lstm(batch)[0].sum().backward()

    return epoch


def main() -> int:
    options = make_parser(__doc__).parse_args()
    contestants = {
        "ours O0": (ours, (options.data_dir, "O0", True)),
        "ours O1": (ours, (options.data_dir, "O1", True)),
        "ours O2": (ours, (options.data_dir, "O2", True)),
        "default recipe O0": (ours, (options.data_dir, "O0", False)),
        "default recipe O2": (ours, (options.data_dir, "O2", False)),
        "bare LSTM": (bare_lstm, (options.data_dir, torch.float32, False)),
        "bare LSTM, our allocator": (bare_lstm, (options.data_dir, torch.float32, True)),
        "bare LSTM bfloat16": (bare_lstm, (options.data_dir, torch.bfloat16, False)),
    }
    if installed("pytorch-crf"):
        contestants["tutorial"] = (tutorial, (options.data_dir,))
    costs = compete(contestants, options.rounds)
    train = read(options.data_dir).train
    characters = sum(len(sentence.tokens) for sentence in train)
    print(f"{len(train):,} sentences, {characters:,} characters; medians of {options.rounds} rounds")
    print(f"{'':26}{'CPU s':>9}{'wall s':>9}{'sentences/CPU s':>17}{'characters/CPU s':>18}")
    for name, cost in costs.items():
        wall, cpu, _ = median(cost)
        print(f"{name:26}{cpu:9.2f}{wall:9.2f}{len(train) / cpu:17,.0f}{characters / cpu:18,.0f}")
    compared = {
        "bare_lstm_O0": ("bare LSTM", "ours O0"),
        "bare_lstm_same_allocator_O0": ("bare LSTM, our allocator", "ours O0"),
        "bare_lstm_O2": ("bare LSTM bfloat16", "ours O2"),
        "tutorial_O0": ("tutorial", "ours O0"),
        "tutorial_O1": ("tutorial", "ours O1"),
    }
    found = {}
    print(f"\n{'ratio':30}{'median':>9}{'lowest':>9}{'highest':>9}")
    for name, (other, mine) in compared.items():
        if other in costs:
            pairs = ratios(costs[other], costs[mine])
            found[name] = statistics.median(pairs)
            print(f"{name:30}{found[name]:9.2f}{min(pairs):9.2f}{max(pairs):9.2f}")
    report(options.json, ratios=found, figures={"seconds": costs, "sentences": len(train), "characters": characters})
    return 0


if __name__ == "__main__":
    sys.exit(main())
