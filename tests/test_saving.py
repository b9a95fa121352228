"""A killed writer, a full disk, a damaged file: what was saved before is whole, and is found."""

import errno
import os
import re
import resource
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import checkpoint, run_directory, saving
from ray_bilstm.checkpoint import MODEL, PREVIOUS, STATE, CheckpointError
from ray_bilstm.config import Config
from ray_bilstm.loop import Progress
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.run_directory import BEST, LAST
from ray_bilstm.vocab import Vocab

CONFIG = Config().with_fields(embedding_size=8, bigram_size=4, hidden_size=6)


def make_sequence(vocab: Vocab) -> list[Progress]:
    """What a run saves: after an epoch, in the middle of the next, after that, which is no better, and after a best."""
    names = {name: weight.shape for name, weight in BiLstmCrf(CONFIG.model, vocab).named_parameters()}

    def tensors(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.randn(shape, generator=generator) for name, shape in names.items()}

    def progress(epoch: int, best: int, *, steps: int = 0) -> Progress:
        weights = tensors(10 * epoch + steps)
        moments = {f"{name}.exp_avg": weight + 1 for name, weight in weights.items()}
        begun = {"losses": torch.ones(steps), "random": torch.arange(9)} if steps else {}
        return Progress(
            epoch=epoch,
            best_epoch=best,
            best_f1=best / 10,
            weights=weights,
            best_weights=weights if best == epoch and not steps else tensors(10 * best),
            moments=moments,
            history=[{"epoch": number, "best": number <= best} for number in range(1, epoch + 1)],
            begun=begun,
        )

    return [progress(1, 1), progress(1, 1, steps=5), progress(2, 1), progress(3, 3)]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def is_same(one: Progress, other: Progress) -> bool:
    tensors = all(
        same(getattr(one, kind), getattr(other, kind)) for kind in ("weights", "best_weights", "moments", "begun")
    )
    return tensors and (one.epoch, one.best_epoch, one.history) == (other.epoch, other.best_epoch, other.history)


class HalfWritten:
    """A file whose content arrives in two parts, with a point between them."""

    def __init__(self, file, point) -> None:
        self.file, self.point = file, point

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.point()
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.point()
        self.file.write(data[len(data) // 2 :])

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def write_until(path: Path, sequence: list[Progress], vocab: Vocab, *, point_of_death: int | None) -> tuple[int, int]:
    """In another process, save all of `sequence`, and be gone at the n-th point: before, between or after two calls to
    the system. Returns how many saves were done, and how many points were passed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        points = 0

        def point() -> None:
            nonlocal points
            points += 1
            os.write(writer, b"p")
            if points == point_of_death:
                os._exit(9)

        def with_points(function):
            def call(*arguments, **settings):
                point()
                result = function(*arguments, **settings)
                point()
                return result

            return call

        opened = os.fdopen
        os.fdopen = lambda *arguments: HalfWritten(opened(*arguments), point)
        for module, name in ((os, "replace"), (os, "fsync"), (os, "chmod"), (tempfile, "mkstemp"), (Path, "mkdir")):
            setattr(module, name, with_points(getattr(module, name)))
        for progress in sequence:
            saving.save(path, progress, config=CONFIG, vocab=vocab)
            os.write(writer, b"s")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told.count(b"s"), told.count(b"p")


def content(path: Path) -> dict[str, bytes]:
    """All files of a run that have one spelling."""
    names = (STATE, PREVIOUS, run_directory.EVENTS)
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in names)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def sequence(vocab) -> list[Progress]:
    return make_sequence(vocab)


@pytest.mark.slow
def test_a_writer_killed_at_any_point_leaves_a_whole_state(tmp_path, sequence, vocab) -> None:
    """And who takes it up ends with what an undisturbed writer leaves."""
    (tmp_path / "whole").mkdir()
    done, points = write_until(tmp_path / "whole", sequence, vocab, point_of_death=None)
    assert done == len(sequence)
    assert points >= 100
    expected, older = content(tmp_path / "whole"), 0
    for point in range(1, points + 1):
        path = tmp_path / str(point)
        path.mkdir()
        done, passed = write_until(path, sequence, vocab, point_of_death=point)
        assert passed == point
        found: list[str] = []
        if done:
            state = checkpoint.read_state(path / LAST, warn=found.append)
            assert any(is_same(state, known) for known in sequence[done - 1 : done + 1]), point
            older += bool(found)
        taken = saving.take_up(path, config=CONFIG, vocab=vocab)
        number = next((i for i, known in enumerate(sequence, 1) if is_same(taken, known)), 0)
        assert number in (done, done + 1)
        assert run_directory.read_history(path) == taken.history
        if number:
            model, _ = checkpoint.read_model(path / BEST)
            assert same({n: w.detach() for n, w in model.named_parameters()}, taken.best_weights)
        for progress in sequence[number:]:
            saving.save(path, progress, config=CONFIG, vocab=vocab)
        assert content(path) == expected, point
        assert is_same(checkpoint.read_state(path / LAST), sequence[-1])
        if found:
            assert re.match(rf"warning: {path}/last/{STATE}: cannot be read.*Going on from the state before", found[0])
    assert older >= len(sequence) - 2, "between two renames, the state before is the one that counts"


@given(data=st.data(), cut=st.booleans())
def test_a_damaged_state_gives_way_to_the_one_before(data, cut, sequence) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for progress in sequence[:2]:
            checkpoint.write_state(path, progress)
        damage(path / STATE, data, cut=cut)
        found: list[str] = []
        state = checkpoint.read_state(path, warn=found.append)
        if found:
            assert is_same(state, sequence[0])
            assert found[0].startswith(f"warning: {path / STATE}: ")
        else:
            assert is_same(state, sequence[1]), "what was damaged says nothing"
        damage(path / PREVIOUS, data, cut=True)
        if found:
            with pytest.raises(CheckpointError, match=rf"{STATE}: .*{PREVIOUS}: .*start anew with --overwrite"):
                checkpoint.read_state(path)


def damage(file: Path, data, *, cut: bool) -> None:
    """Cut it, or change one bit."""
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if cut:
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)


FAULTS = {
    "full": (errno.ENOSPC, "No space left on device"),
    "quota": (errno.EDQUOT, "Disk quota exceeded"),
    "read-only": (errno.EROFS, "Read-only file system"),
    "failing": (errno.EIO, "Input/output error"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["fsync", "replace", "mkstemp"])
def test_a_disk_that_takes_nothing_is_named_and_what_was_saved_stays(
    monkeypatch, tmp_path, sequence, vocab, fault, call
) -> None:
    saving.save(tmp_path, sequence[0], config=CONFIG, vocab=vocab)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    number, text = FAULTS[fault]

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile if call == "mkstemp" else os, call, fail)
    message = rf"{tmp_path}: cannot be written: {text}: make room there\. Then go on with --resume: what was saved"
    with pytest.raises(CheckpointError, match=message):
        saving.save(tmp_path, sequence[2], config=CONFIG, vocab=vocab)
    monkeypatch.undo()
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert is_same(saving.take_up(tmp_path, config=CONFIG, vocab=vocab), sequence[0])


def test_a_file_that_the_system_cuts_is_not_taken_for_whole(tmp_path, sequence, vocab) -> None:
    """A limit on file sizes, which the weights keep and the state does not: the kernel writes a part and refuses."""
    saving.save(tmp_path, sequence[0], config=CONFIG, vocab=vocab)
    limit = ((tmp_path / LAST / MODEL).stat().st_size + (tmp_path / LAST / STATE).stat().st_size) // 2
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            saving.save(tmp_path, sequence[2], config=CONFIG, vocab=vocab)
        except CheckpointError as error:
            os._exit(7 if "cannot be written: File too large" in str(error) else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert is_same(saving.take_up(tmp_path, config=CONFIG, vocab=vocab), sequence[0])
    assert not list(tmp_path.rglob(f"*{checkpoint.PARTIAL}"))


def test_a_directory_that_has_vanished_is_not_made_again(tmp_path, sequence, vocab) -> None:
    path = tmp_path / "mounted" / "run"
    with pytest.raises(CheckpointError, match=rf"{path}: is gone, moved or no longer mounted: bring it back.*--resume"):
        saving.save(path, sequence[0], config=CONFIG, vocab=vocab)
    assert not path.parent.exists()


def test_what_killed_writers_left_is_removed(tmp_path, sequence, vocab) -> None:
    saving.save(tmp_path, sequence[0], config=CONFIG, vocab=vocab)
    left = [tmp_path / name / f".{MODEL}.x{checkpoint.PARTIAL}" for name in ("", BEST, LAST)]
    for file in left:
        file.write_text("half", encoding="utf-8")
    saving.take_up(tmp_path, config=CONFIG, vocab=vocab)
    assert not [file for file in left if file.exists()]
