"""A run kept below a URI as it goes (`--storage-path s3://bucket/runs`), for machines that share no folder.

A run directory is renamed into and appended to, which object storage cannot do. So each side works in a folder of its
own and puts there what it has finished, object by object, each with one writer:

    rank 0   last/ best/ history.jsonl, and worker/events.jsonl
    driver   config.json, .start.safetensors, .stop, events.jsonl; at the end all that it adds, result.json last

Of an epoch, the state comes behind the model of last/, and before best/ and the history, which can both be made from
it: a run whose rank 0 is killed between two objects goes on as it does from a local folder. All through pyarrow.fs: S3
takes its credentials from the environment, region and endpoint from there too or from options of the URI.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pyarrow import fs

from ray_bilstm import run_directory
from ray_bilstm.checkpoint import PARTIAL, PREVIOUS, STATE, write_file
from ray_bilstm.config import Config
from ray_bilstm.run_directory import BEST, CONFIG, EVENTS, FILES, FOLDERS, HISTORY, LAST, RESULT, STOP, RunError

WORKER = "worker/"
"""Folder of what rank 0 has noted; the driver adds it to its own events."""
APPEARS_WHOLE = ("s3", "gcs", "abfs")
"""File systems whose files are there once all of them has arrived; elsewhere they are renamed."""
SECONDS = 2.0
"""Between two looks at what the other side has put there."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """One run below a URI. Methods raise RunError where the storage refuses or cannot be reached."""

    uri: str
    """of all runs, such as s3://bucket/runs or s3://bucket/runs?endpoint_override=127.0.0.1%3A5000&scheme=http"""
    name: str
    """of this one"""
    known: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """digests of what this process has put or found there"""

    def __str__(self) -> str:
        """The URI of the run."""
        base, mark, options = self.uri.partition("?")
        return f"{base.rstrip('/')}/{self.name}{mark}{options}"

    def holds_run(self) -> bool:
        """Whether there is one, finished or not."""
        return any(name.partition("/")[0] in (RESULT, HISTORY, LAST, BEST) for name in self._names(""))

    def has(self, name: str) -> bool:
        with self._open() as (system, root):
            return bool(system.get_file_info(f"{root}/{name}").type is not fs.FileType.NotFound)

    def pull(self, folder: Path, *names: str, under: str = "") -> None:
        """Have `folder` hold the files `names`, and all in folders of these names, as they are there, in `under`.
        Without names: all."""
        for name in self._names(under):
            if names and name not in names and name.partition("/")[0] not in names:
                continue
            if ".." in name.split("/"):
                raise RunError(
                    f"{self}: holds {name!r}, expected the files of a run: a name that leads out of its folder"
                )
            write_file(folder / name, self.read(under + name))

    def read(self, name: str) -> bytes:
        """What is in a file that is there."""
        with self._open() as (system, root), system.open_input_file(f"{root}/{name}") as file:
            data: bytes = file.read()
        self.known[name] = _digest(data)
        return data

    def push(self, folder: Path, *names: str, under: str = "") -> None:
        """Put the files `names`, and all in folders of these names, there, in `under`, in this order, a state last of
        its folder. What `folder` lacks is left out, and what is there already."""
        for name in names:
            for file in _files(folder / name):
                self._put(under + file.relative_to(folder).as_posix(), file.read_bytes())

    def push_all(self, folder: Path) -> None:
        """Put the run in `folder` there; what says that it has ended comes last."""
        self.push(folder, *FOLDERS, *(name for name in FILES if name != RESULT), RESULT)

    def asked_to_stop(self) -> Callable[[], bool]:
        """A question that may be asked often: whether the driver has asked to stop, as seen at the last look."""
        asked, looked = False, 0.0

        def ask() -> bool:
            nonlocal asked, looked
            if not asked and time.monotonic() - looked > SECONDS:
                with contextlib.suppress(RunError):  # what cannot be reached ends the run when it is to be saved
                    asked = self.has(STOP)
                looked = time.monotonic()
            return asked

        return ask

    def remove(self, *names: str) -> None:
        """Remove these files, where they are there."""
        for name in names:
            self.known.pop(name, None)
            if self.has(name):
                with self._open() as (system, root):
                    system.delete_file(f"{root}/{name}")

    def _names(self, under: str) -> list[str]:
        """Of all files below `under`, whole ones only."""
        with self._open() as (system, root):
            top = f"{root}/{under}".rstrip("/")
            found = system.get_file_info(fs.FileSelector(top, allow_not_found=True, recursive=True))
        files = [info.path[len(top) + 1 :] for info in found if info.type is fs.FileType.File]
        return sorted(name for name in files if not name.endswith(PARTIAL))

    def _put(self, name: str, data: bytes) -> None:
        digest = _digest(data)
        if self.known.get(name) == digest:
            return
        with self._open() as (system, root):
            path, end = f"{root}/{name}", ""
            if system.type_name not in APPEARS_WHOLE:
                system.create_dir(path.rpartition("/")[0], recursive=True)
                end = PARTIAL
            with system.open_output_stream(path + end) as stream:
                stream.write(data)
            if end:
                system.move(path + end, path)
        self.known[name] = digest

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[fs.FileSystem, str]]:
        """The file system, and the place of the run in it."""
        try:
            system, root = _connect(self.uri)
            yield system, f"{root.rstrip('/')}/{self.name}"
        except (OSError, ValueError) as error:  # those of pyarrow are of both kinds
            reason = " ".join(str(error).split())
            raise RunError(f"{self}: the storage cannot be used: {reason}") from error


@functools.cache
def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    """Once a process: to learn the region of a bucket, it asks the storage."""
    system, root = fs.FileSystem.from_uri(uri)
    return system, root


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(path: Path) -> list[Path]:
    """Those that are finished. The state that is kept for disks that lose what they were given stays here."""
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    whole = [file for file in found if not file.name.endswith((PARTIAL, PREVIOUS))]
    return sorted(whole, key=lambda file: (file.name == STATE, file))


def fetch(config: Config, path: Path) -> Storage | None:
    """Bring the run that is to be resumed to `path`, from where --storage-path keeps it, if it does; that place."""
    if config.run.storage_path is None:
        return None
    storage = Storage(config.run.storage_path, path.name)
    storage.pull(path)
    return storage


def open_storage(config: Config, path: Path) -> Storage | None:
    """Where the run at `path`, which has its settings, is kept besides. Raises RunError where that is not free."""
    if config.run.storage_path is None:
        return None
    storage = Storage(config.run.storage_path, path.name)
    if not config.run.resume and storage.holds_run():
        raise RunError(
            f"{storage}: holds a run, expected nothing: choose another name for --output-dir, or pass --resume"
        )
    storage.remove(STOP, WORKER + EVENTS)  # of an earlier start
    storage.push(path, LAST, BEST, HISTORY, EVENTS, CONFIG)
    return storage


class Exchange:
    """The driver's side while the workers train: it passes on that they are to stop, and brings here what rank 0 has
    put there."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage, self.folder = storage, folder
        self.added, self.looked = 0, time.monotonic()

    def __call__(self, *, ending: bool) -> None:
        """To be called often. When `ending`, all is brought here, or RunError raised; a look that fails before is
        made again."""
        if not ending and time.monotonic() - self.looked < SECONDS:
            return
        try:
            self.storage.push(self.folder, STOP)
            self.storage.pull(self.folder, HISTORY, *((LAST, BEST) if ending else ()))
            if self.storage.has(WORKER + EVENTS):
                lines = self.storage.read(WORKER + EVENTS).decode("utf-8").splitlines()
                for line in lines[self.added :]:
                    run_directory.add_event(self.folder, json.loads(line))
                self.added = len(lines)
            self.storage.push(self.folder, EVENTS)
        except RunError:
            if ending:
                raise
        self.looked = time.monotonic()
