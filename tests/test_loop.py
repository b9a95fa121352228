"""The loop: it learns, any number of ranks does the same, a resumed run repeats an uninterrupted one."""

import contextlib
import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from ray_bilstm import checkpoint, loop
from ray_bilstm.batches import Shard, TrainingSet, deal
from ray_bilstm.config import ModelConfig, TrainingConfig
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision

SIZES = {"embedding_size": 16, "bigram_size": 8, "hidden_size": 16}
ONE_EPOCH = TrainingConfig(batch_size=3, train_epochs=1, learning_rate=0.01, warmup=0.0, token_dropout=0.0)


def make_run(sentences, vocab, config, *, rank=0, world_size=1, model_seed=0, model=BiLstmCrf, window=None, **fields):
    """The arguments of `fit`: train and dev are both all sentences, dealt to the ranks; train in windows, if given."""
    lengths = np.array([len(sentence.tokens) for sentence in sentences])
    rows = np.flatnonzero(deal(lengths, world_size) == rank)
    shard = Shard(vocab.encode([sentences[i].tokens for i in rows], [sentences[i].tags for i in rows]), rows)
    ranks = {"rank": rank, "world_size": world_size}

    def windows():
        for start in range(0, len(lengths), window or len(lengths)):
            owners = deal(lengths[start : start + window if window else None], world_size)
            own = np.flatnonzero(owners == rank) + start
            yield Shard(vocab.encode([sentences[i].tokens for i in own], [sentences[i].tags for i in own]), own)

    torch.manual_seed(model_seed)
    return {
        "model": model(ModelConfig(**SIZES | fields), vocab),
        "train": TrainingSet(
            windows,
            lengths,
            window=window,
            batch_size=config.batch_size,
            seed=config.seed,
            shapes=4,
            token_dropout=config.token_dropout,
            **ranks,
        ),
        "dev": shard,
        "scorer": Scorer(vocab.tags, vocab.scheme),
        "config": config,
        "precision": Precision("O0", dtype=torch.float32, device=torch.device("cpu")),
        "progress": loop.Progress(),
    }


def fit(run, *, on_epoch=None, **callbacks):
    """The history of a fitted run, and its progress."""
    history = []

    def keep(record, progress):
        history.append(record)
        if on_epoch:
            on_epoch(record, progress)

    return history, loop.fit(run["model"], **{k: v for k, v in run.items() if k != "model"}, on_epoch=keep, **callbacks)


def test_a_tiny_model_learns_a_tiny_corpus(sentences, vocab):
    config = TrainingConfig(batch_size=2, train_epochs=30, learning_rate=0.02, token_dropout=0.0)
    history, progress = fit(make_run(sentences, vocab, config, dropout=0.0))
    losses = [record["train_loss"] for record in history]
    assert progress.best_f1 == max(record["dev"]["entity"]["f1"] for record in history) == 1.0
    assert losses[-1] < losses[0] / 20
    assert [record["epoch"] for record in history] == list(range(1, 31))
    assert [r["epoch"] for r in history if r["best"]][-1] == progress.best_epoch, "the first of equals is best"
    assert all(record["steps"] == 4 and math.isfinite(record["gradient_norm"]) for record in history)
    assert history[0]["measured_sentences"] < 8 == history[1]["measured_sentences"], "warm-up is not measured"
    assert set(progress.best_weights) == set(progress.weights)


def test_adversarial_steps_learn_too_and_lose_more(sentences, vocab):
    def losses(adversarial):
        config = TrainingConfig(batch_size=2, train_epochs=10, learning_rate=0.02, token_dropout=0.0)
        config = dataclasses.replace(config, adversarial=adversarial)
        return [record["train_loss"] for record in fit(make_run(sentences, vocab, config, dropout=0.0))[0]]

    plain, moved = losses(0.0), losses(1.0)
    assert moved[-1] < moved[0] / 3
    assert moved[-1] > plain[-1]


def test_the_first_loss_is_the_mean_over_the_sentences_of_the_step(sentences, vocab):
    run = make_run(sentences, vocab, ONE_EPOCH, dropout=0.0)
    batches = list(run["train"].batches(1))
    with torch.no_grad():
        expected = run["model"](batches[0]).mean().item()
    (record,), _ = fit(run)
    assert record["first_step_loss"] == pytest.approx(expected, rel=1e-5)


def run_rank(rank, folder, sentences, vocab):
    """One of three processes: an epoch alone, one in a group of two, one in a group of three, each from the same start
    and without dropout. What they end with is left in `folder`."""
    torch.set_num_threads(1)
    config = dataclasses.replace(ONE_EPOCH, batch_size=5)
    for world_size in range(rank + 1, 4):
        if world_size > 1:
            where = f"file://{folder / f'rendezvous-{world_size}'}"
            dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world_size)
        run = make_run(sentences, vocab, config, rank=rank, world_size=world_size, dropout=0.0)
        (record,), progress = fit(run)
        counts = loop.evaluate(run["model"], run["dev"], run["scorer"], precision=run["precision"])
        progress.moments = {
            "first": torch.tensor(record["first_step_loss"]),
            "mean": torch.tensor(record["train_loss"]),
            "norm": torch.tensor(record["gradient_norm"]),
            "counts": torch.from_numpy(counts.to_array()),
            "sentences": torch.tensor(len(run["dev"])),
        }
        checkpoint.write_state(folder / f"{world_size}-{rank}", progress)
        if world_size > 1:
            dist.barrier()
            dist.destroy_process_group()


def test_1_2_and_3_ranks_do_the_same(tmp_path, sentences, vocab):
    """Steps of 5 and 3 sentences: ranks hold different numbers of them, so that plain averaging would be wrong.

    AdamW divides a gradient by its own size: rounding may move a weight that has hardly any gradient as far as any.
    """
    torch.multiprocessing.spawn(run_rank, (tmp_path, sentences, vocab), nprocs=3)
    ends = {path.name: checkpoint.read_state(path) for path in tmp_path.glob("?-?")}
    alone = ends["1-0"]
    held = {name: int(end.moments["sentences"]) for name, end in ends.items()}
    assert held == {"1-0": 8, "2-0": 4, "2-1": 4, "3-0": 3, "3-1": 3, "3-2": 2}
    assert alone.moments["counts"].sum() > 0
    for name, end in ends.items():
        assert torch.equal(end.moments["counts"], alone.moments["counts"]), name
        for figure, tolerance in (("first", 1e-6), ("mean", 1e-4), ("norm", 1e-4)):
            assert end.moments[figure].item() == pytest.approx(alone.moments[figure].item(), rel=tolerance), name
        off = torch.cat([(end.weights[weight] - alone.weights[weight]).abs().flatten() for weight in alone.weights])
        assert (off > 1e-5).float().mean() < 0.01, name
        assert off.max() < 0.02, name
        first = ends[f"{name[0]}-0"].weights
        assert all(torch.equal(end.weights[weight], first[weight]) for weight in first), "one group, one model"


class Killed(Exception):
    """Stands in for the end of the process."""


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_repeats_an_uninterrupted_one(tmp_path, sentences, vocab, stop):
    config = TrainingConfig(batch_size=3, train_epochs=5, learning_rate=0.01)
    settings = {"dropout": 0.3, "num_layers": 2}
    expected_history, expected = fit(make_run(sentences, vocab, config, **settings))

    def kill(record, progress):
        checkpoint.write_state(tmp_path, progress)
        if record["epoch"] == stop:
            raise Killed

    with pytest.raises(Killed):
        fit(make_run(sentences, vocab, config, **settings), on_epoch=kill)
    run = make_run(sentences, vocab, config, model_seed=99, **settings)
    run["progress"] = checkpoint.read_state(tmp_path)
    assert run["progress"].epoch == stop
    history, got = fit(run)

    assert (got.epoch, got.best_epoch, got.best_f1) == (expected.epoch, expected.best_epoch, expected.best_f1)
    for kind in ("weights", "best_weights", "moments"):
        ours, theirs = getattr(got, kind), getattr(expected, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), kind
    for name in ("epoch", "train_loss", "learning_rate", "gradient_norm", "dev", "best"):
        assert [r[name] for r in history] == [r[name] for r in expected_history[stop:]]


def assert_same(got, expected):
    """Two runs stand at the same place, to the bit, and tell the same."""
    assert (got.epoch, got.best_epoch, got.best_f1) == (expected.epoch, expected.best_epoch, expected.best_f1)
    assert not got.begun
    for kind in ("weights", "best_weights", "moments"):
        ours, theirs = getattr(got, kind), getattr(expected, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), kind
    timeless = [
        [{k: v for k, v in line.items() if k not in ("seconds", "sentences_per_second")} for line in progress.history]
        for progress in (got, expected)
    ]
    assert timeless[0] == timeless[1]


def at_look(number, wish):
    """A watch that wants `wish` at one of its looks, counted from 1."""
    looks = itertools.count(1)
    return lambda: wish if next(looks) == number else loop.Wish.GO_ON


DROPPING = TrainingConfig(batch_size=2, train_epochs=3, learning_rate=0.01, token_dropout=0.2)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("look", range(1, 13))
def test_a_run_that_stops_at_any_step_goes_on_to_the_same_bits(monkeypatch, tmp_path, sentences, vocab, look, window):
    """3 epochs of 4 steps: a look before each epoch and after each step but the last. Dropout in the model and of
    tokens, and in windows, each of which draws its own."""
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    settings = {"dropout": 0.3, "window": window}
    _, expected = fit(make_run(sentences, vocab, DROPPING, **settings))

    def write(record, progress):
        checkpoint.write_state(tmp_path, progress)

    with pytest.raises(loop.Stopped):
        fit(
            make_run(sentences, vocab, DROPPING, **settings),
            on_epoch=write,
            on_save=functools.partial(write, None),
            watch=at_look(look, loop.Wish.STOP),
        )
    run = make_run(sentences, vocab, DROPPING, model_seed=99 if look > 1 else 0, **settings)
    if look > 1:  # else it stopped before the first step and wrote nothing
        run["progress"] = checkpoint.read_state(tmp_path)
    assert (run["progress"].epoch, run["progress"].steps) == divmod(look - 1, 4)
    assert_same(fit(run)[1], expected)


def test_saving_within_an_epoch_changes_nothing(monkeypatch, sentences, vocab):
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    _, expected = fit(make_run(sentences, vocab, DROPPING, dropout=0.3))
    saved = []
    _, got = fit(
        make_run(sentences, vocab, DROPPING, dropout=0.3),
        watch=lambda: loop.Wish.SAVE,
        on_save=lambda progress: saved.append((progress.epoch, progress.steps)),
    )
    assert saved == [(epoch, steps) for epoch in range(3) for steps in (1, 2, 3)]
    assert_same(got, expected)


def stop_and_go_on(rank, folder, sentences, vocab):
    """One of two processes: together, stopped in the middle of the second epoch, on to the end, or on alone."""
    torch.set_num_threads(1)
    loop.CHECK_EVERY = 1
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    settings = {"rank": rank, "world_size": 2, "dropout": 0.3}

    def write(name, progress):
        checkpoint.write_state(folder / f"{name}-{rank}", progress)

    write("whole", fit(make_run(sentences, vocab, DROPPING, **settings))[1])
    with contextlib.suppress(loop.Stopped):
        fit(
            make_run(sentences, vocab, DROPPING, **settings),
            on_save=functools.partial(write, "cut"),
            watch=at_look(7, loop.Wish.STOP),
        )
    dist.barrier()  # rank 0 has written what both read
    run = make_run(sentences, vocab, DROPPING, model_seed=99, **settings)
    run["progress"] = checkpoint.read_state(folder / "cut-0")
    write("again", fit(run)[1])
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_go_on_to_the_same_bits_and_one_to_the_same_problem(tmp_path, monkeypatch, sentences, vocab):
    torch.multiprocessing.spawn(stop_and_go_on, (tmp_path, sentences, vocab), nprocs=2)
    whole = checkpoint.read_state(tmp_path / "whole-0")
    for rank in range(2):
        assert_same(checkpoint.read_state(tmp_path / f"again-{rank}"), whole)

    def alone(cut):
        """One rank goes on from `cut`; the rows of its steps."""
        run, rows = make_run(sentences, vocab, DROPPING, model_seed=99, dropout=0.3), []
        run["progress"] = cut
        batches = run["train"].batches
        run["train"].batches = lambda epoch: (rows.append(sorted(b.rows)) or b for b in batches(epoch))
        return fit(run)[1], rows

    cut = checkpoint.read_state(tmp_path / "cut-0")
    assert (cut.epoch, cut.steps, cut.begun["random"].shape[0]) == (1, 2, 2)
    first = cut.history[0]
    got, rows = alone(cut)
    _, all_rows = alone(loop.Progress())
    assert rows == all_rows[4:], "the steps are those of any number of ranks"
    assert got.history[0] == first
    assert [line["learning_rate"] for line in got.history] == [line["learning_rate"] for line in whole.history]
    losses = [[line["train_loss"] for line in progress.history] for progress in (got, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_a_finished_run_does_nothing_more(sentences, vocab):
    run = make_run(sentences, vocab, ONE_EPOCH)
    fit(run)
    assert fit(run)[0] == []


class Diverging(BiLstmCrf):
    """Its loss is NaN in the fifth training step."""

    steps = 0

    def forward(self, batch):
        self.steps += 1
        return super().forward(batch) * (math.nan if self.steps == 5 else 1)


@pytest.mark.parametrize("check_every", [1, 2, 50])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(monkeypatch, sentences, vocab, check_every):
    monkeypatch.setattr(loop, "CHECK_EVERY", check_every)
    config = dataclasses.replace(ONE_EPOCH, train_epochs=4)
    run, history = make_run(sentences, vocab, config, model=Diverging), []
    with pytest.raises(loop.TrainingError, match=r"not finite at epoch 2, step 2: got nan.*--learning-rate"):
        fit(run, on_epoch=lambda record, progress: history.append(record))
    assert [record["epoch"] for record in history] == [1]
    assert all(torch.isfinite(weight).all() for weight in run["progress"].weights.values())


@pytest.mark.parametrize(("patience", "epochs"), [(0, 8), (2, 3), (4, 5), (9, 8)])
def test_early_stopping(sentences, vocab, patience, epochs):
    """Nothing is learnt at this rate, so that the first epoch stays the best."""
    config = TrainingConfig(batch_size=8, train_epochs=8, learning_rate=1e-12, patience=patience)
    history, progress = fit(make_run(sentences, vocab, config))
    assert (len(history), progress.best_epoch) == (epochs, 1)
    assert len({record["train_loss"] for record in history}) == epochs, "every epoch draws a dropout of its own"


def test_learning_rate_rises_then_falls_to_nothing(sentences, vocab):
    """One step an epoch: the history holds the whole schedule."""
    config = TrainingConfig(batch_size=8, train_epochs=20, learning_rate=0.5, warmup=0.2)
    run = make_run(sentences, vocab, dataclasses.replace(config, clip_norm=1e-6))
    rates = [record["learning_rate"] for record in fit(run)[0]]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[4:] == pytest.approx([0.25 + 0.25 * math.cos(math.pi * i / 16) for i in range(16)])
    assert rates[-1] < 0.01


def test_an_empty_shard_is_scored_as_nothing(vocab):
    shard = Shard(vocab.encode([]), np.arange(0))
    scorer = Scorer(vocab.tags, vocab.scheme)
    model = BiLstmCrf(ModelConfig(**SIZES), vocab)
    precision = Precision("O0", dtype=torch.float32, device=torch.device("cpu"))
    assert not loop.evaluate(model, shard, scorer, precision=precision).to_array().any()


class Overflowing(BiLstmCrf):
    """Multiplies the losses of some batches, counted from 0, beyond float16."""

    batches: tuple[int, ...] = ()
    seen = 0

    def forward(self, batch):
        factor = 1e6 if self.seen in self.batches else 1.0
        self.seen += 1
        return super().forward(batch) * factor


def make_float16_run(sentences, vocab, config, batches):
    run = make_run(sentences, vocab, config, model=Overflowing, dropout=0.0)
    run["model"].batches = batches
    run["precision"] = Precision("O2", dtype=torch.float16, device=torch.device("cpu"), half_lstm=False)
    return run


def test_overflowed_steps_are_skipped_and_the_history_says_so(sentences, vocab):
    config = TrainingConfig(batch_size=2, train_epochs=12, learning_rate=0.02, token_dropout=0.0)
    history, progress = fit(make_float16_run(sentences, vocab, config, batches=(0, 5, 6)))
    assert [record["skipped_steps"] for record in history] == [1, 2, *[0] * 10]
    assert all(math.isfinite(record[name]) for record in history for name in ("train_loss", "gradient_norm"))
    assert progress.best_f1 > 0.9, "training went on"


def test_a_run_that_only_overflows_is_stopped(sentences, vocab):
    config = TrainingConfig(batch_size=2, train_epochs=3)
    with pytest.raises(loop.TrainingError, match=r"all of the last 4 steps up to epoch 2.* overflowed float16.* 64"):
        fit(make_float16_run(sentences, vocab, config, batches=range(100)))


def test_a_gradient_that_is_not_finite_stops_the_run_without_a_loss_scale(sentences, vocab):
    run = make_run(sentences, vocab, TrainingConfig(batch_size=2, train_epochs=2))
    run["model"].emission.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(loop.TrainingError, match="the gradient is not finite at epoch 1, step 1: got nan"):
        fit(run)


def test_a_dynamic_loss_scale_is_resumed(sentences, vocab, tmp_path):
    """Where an uninterrupted run and one that was cut after an epoch stand is the same, to the bit."""

    def run(progress, epochs):
        config = TrainingConfig(batch_size=3, train_epochs=3)
        arguments = make_run(sentences, vocab, config)
        arguments["precision"] = Precision("O1", dtype=torch.float16, device=torch.device("cpu"), half_lstm=False)
        arguments["progress"] = progress

        def on_epoch(record, progress):
            if progress.epoch == epochs:
                checkpoint.write_state(tmp_path, progress)
                raise InterruptedError

        try:
            return fit(arguments, on_epoch=on_epoch)[1]
        except InterruptedError:
            return run(checkpoint.read_state(tmp_path), None)

    whole, cut = run(loop.Progress(), None), run(loop.Progress(), 1)
    assert whole.loss_scale.keys() == cut.loss_scale.keys() == {"scale", "good_steps"}
    assert float(cut.loss_scale["scale"]) < 2.0**16, "it fell"
    for kind in ("weights", "moments", "loss_scale"):
        pairs = zip(getattr(whole, kind).values(), getattr(cut, kind).values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), kind


@pytest.mark.parametrize(("before", "after"), [("O0", "O2"), ("O2", "O1"), ("O1", "O0")])
def test_a_run_goes_on_at_another_level(before, after, sentences, vocab):
    progress = loop.Progress()
    for level, epochs in ((before, 10), (after, 20)):
        run = make_run(sentences, vocab, TrainingConfig(batch_size=2, train_epochs=20, learning_rate=0.02), dropout=0.0)
        run["config"] = dataclasses.replace(run["config"], train_epochs=epochs)
        run["precision"] = Precision(level, dtype=torch.bfloat16, device=torch.device("cpu"))
        run["progress"] = progress
        history, progress = fit(run)
    assert [record["epoch"] for record in history] == list(range(11, 21))
    assert progress.best_f1 > 0.9
    assert {weight.dtype for weight in progress.weights.values()} == {torch.float32}
