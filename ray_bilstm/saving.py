"""What rank 0 keeps of a run on disk as it goes, and how a later process takes it up.

last/ first, and in it the state last: best/ and the history can be made from the state again, and are, where a killed
process left them behind.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ray_bilstm import checkpoint, collective, run_directory
from ray_bilstm.checkpoint import CheckpointError
from ray_bilstm.config import Config
from ray_bilstm.loop import Progress
from ray_bilstm.vocab import Vocab


def save(path: Path, progress: Progress, *, config: Config, vocab: Vocab) -> None:
    """Write where the run at `path` stands.

    Raises CheckpointError where that cannot be done; what was written before is whole then.
    """
    last, best = path / run_directory.LAST, path / run_directory.BEST
    advice = "Then go on with --resume: what was saved before is whole"
    if not path.is_dir():  # do not make a new one, perhaps on another disk
        raise CheckpointError(f"{path}: is gone, moved or no longer mounted: bring it back. {advice}")
    try:
        checkpoint.write_model(last, progress.weights, config=config, vocab=vocab)
        checkpoint.write_state(last, progress)
        if progress.epoch and progress.best_epoch == progress.epoch:
            checkpoint.write_model(best, progress.best_weights, config=config, vocab=vocab)
        run_directory.write_history(path, progress.history)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"{path}: cannot be written: {reason}: make room there. {advice}") from error


def take_up(path: Path, *, config: Config, vocab: Vocab) -> Progress:
    """Where the run at `path` stands, on every rank: rank 0 reads it, and tidies up after one that was killed."""
    progress = _tidy(path, config, vocab) if collective.rank() == 0 else None
    shared: Progress = collective.share_from_first(progress)
    return shared


def _tidy(path: Path, config: Config, vocab: Vocab) -> Progress:
    last, best = path / run_directory.LAST, path / run_directory.BEST
    for folder in (path, last, best):
        checkpoint.remove_partial(folder)
    if not run_directory.can_resume(path):
        return Progress()
    progress = checkpoint.read_state(last, warn=partial(run_directory.write_event, path))
    if progress.best_weights:
        checkpoint.write_model(best, progress.best_weights, config=config, vocab=vocab)
    run_directory.write_history(path, progress.history)
    count = collective.world_size()
    workers = f"{count} worker{'s' * (count > 1)}"
    run_directory.write_event(path, f"going on with {workers} {progress.place()}")
    return progress
