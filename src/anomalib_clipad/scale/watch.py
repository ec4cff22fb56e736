# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""``anomalib-clipad watch``: a folder that fills up, a video or a camera, scored as it comes, across restarts."""

import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from anomalib_clipad.base.text import printable
from anomalib_clipad.data.image_files import Unreadable, read_image
from anomalib_clipad.data.image_loader import BATCH_SIZE, THREADS
from anomalib_clipad.prediction.page import PAGE_FILE
from anomalib_clipad.prediction.table import CSV_FILE, PredictionRow
from anomalib_clipad.scale.album import album_of
from anomalib_clipad.scale.arrivals import Arrivals, observed, stamp_of
from anomalib_clipad.scale.journal import Journal, Stamp
from anomalib_clipad.scale.live import newest
from anomalib_clipad.scale.model_spec import ModelSpec, require_one_by_one
from anomalib_clipad.scale.notify import TIMEOUT, Command, Outbox, Post, Target
from anomalib_clipad.scale.output import keep, owned, require_same
from anomalib_clipad.scale.recorder import Recorder, Taken
from anomalib_clipad.scale.video import Frame, Video, number_of

logger = logging.getLogger(__name__)

_GLANCE, _RESCAN = 0.1, 60.0
"""Seconds between looks at what waits, and between those at the whole folder, for what the system did not tell."""


@dataclass(frozen=True)
class WatchOptions:
    """What is watched and how; see docs/watch.md.

    Args:
        output: Folder of the tables and the page.
        spec: What scores.
        folder: Folder that fills up.
        input: Instead, a video file, a camera's number or an address.
        batch_size: Images scored at once.
        every: Which frames are scored: each whose number this divides.
        settle: Seconds without a change after which a file is complete.
        refresh: Least seconds between two times that tables and page are written.
        shown: Images on the page, the newest.
        once: Whether to end when all files that are there are done.
        poll: Whether to look at all files each second, for network drives.
        command: Command to run for each anomalous image.
        post: Address to send each anomalous image's row to.

    Raises:
        ValueError: If an argument is not valid.
    """

    output: Path
    spec: ModelSpec
    folder: str | None = None
    input: str | None = None
    batch_size: int = BATCH_SIZE
    every: int = 1
    settle: float = 1.0
    refresh: float = 30.0
    shown: int = 2000
    once: bool = False
    poll: bool = False
    command: str | None = None
    post: str | None = None

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.input is None):
            msg = "Expected a folder or --input, but got " + (
                "none." if self.folder is None else "both. Leave out one."
            )
            raise ValueError(msg)
        for name, least in (("batch_size", 1), ("every", 1), ("settle", 0), ("refresh", 0), ("shown", 1)):
            if getattr(self, name) < least:
                msg = f"Expected --{name} to be at least {least}, but got {getattr(self, name)}."
                raise ValueError(msg)
        if self.folder is not None:
            if not Path(self.folder).is_dir():
                msg = f"Expected a folder to watch, but found none at {Path(self.folder).absolute()}."
                raise FileNotFoundError(msg)
            if self.output.resolve().is_relative_to(Path(self.folder).resolve()):
                msg = (
                    f"Expected --output to lie outside of the watched folder, but got {self.output}, whose pictures "
                    "would be watched. Choose a folder beside it."
                )
                raise ValueError(msg)


def watch(options: WatchOptions) -> int:
    """Score what comes until told to stop; return the exit code, 1 where files could not be read.

    Raises:
        OSError: If something cannot be read or written; what was done is kept.
        RuntimeError: If another process writes to the output.
        ValueError: If an argument is not valid, a file is damaged, or the output was begun with other settings.
    """
    targets: list[Target] = [] if options.command is None else [Command(options.command)]
    targets += [] if options.post is None else [Post(options.post)]
    video = None if options.input is None else Video(options.input)
    source = os.path.abspath(str(options.folder)) if video is None else video.name  # noqa: PTH100 - keeps links
    with owned(options.output):
        settings = {"input": printable(source), "every": str(options.every), **options.spec.describe()}
        require_same(options.output, settings)
        model = options.spec.make()
        require_one_by_one(model)
        with torch.no_grad():
            model.on_predict_start()  # refuses what cannot score, and calibrates on what the arguments name
        model.usual_class()  # refuses several classes of which none is named
        keep(options.output, settings)  # not before: arguments that make no model can still be put right
        journal = Journal(options.output)
        page = model.page
        album = album_of(journal, options.output, options.shown, model.name) if page else None
        before = len(journal)
        outbox = Outbox(options.output, targets)
        outbox.put(journal.whole(outbox.due(journal.entries)))
        recorder = Recorder(model, options.output, journal, outbox, album, options.refresh, _tell)
        _say(f"Watching {printable(source)}: {before} images were done before.")
        with _until_told_to_stop() as stop, _kept(recorder, outbox, stop):
            if video is None:
                _watch_folder(recorder, Arrivals(journal.stamp_of, options.settle), source, options, stop)
            else:
                _watch_video(recorder, video, options, stop)
    rows = [entry.row for entry in journal.entries[before:]]
    broken = sum(row.error is not None for row in rows)
    place = options.output / (PAGE_FILE if page else CSV_FILE)
    _say(f"{len(rows)} images done, {broken} of them could not be read. See {place}.")
    ended = video is not None and video.live and not stop.is_set()
    if ended:
        logger.warning("%s gave no more frames. Start the same command again to go on.", printable(source))
    return 1 if broken or ended else 0


@contextmanager
def _until_told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the process at once."""
    stop = threading.Event()
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def set_stop(number: int, frame: object) -> None:
        del number, frame
        stop.set()
        for kind in kinds:
            signal.signal(kind, before[kind])

    for kind in kinds:
        signal.signal(kind, set_stop)
    try:
        yield stop
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])


@contextmanager
def _kept(recorder: Recorder, outbox: Outbox, stop: threading.Event) -> Iterator[None]:
    """Write tables and page at the end, and let everyone be told; also after an error, which comes first."""
    try:
        yield
    except BaseException as error:
        outbox.close(1.0)
        try:
            recorder.report(last=True)
        except OSError as second:
            logger.warning("Tables and page were not written, the next start does: %s", second)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            msg = (
                f"{error.strerror}: {len(recorder.journal)} images are done and kept. Make room, and start the same "
                "command again."
            )
            raise OSError(msg) from error
        raise
    recorder.report(last=True)
    outbox.close(TIMEOUT if stop.is_set() else None)
    recorder.report(last=True)  # raises where the outbox failed


def _watch_folder(
    recorder: Recorder, arrivals: Arrivals, folder: str, options: WatchOptions, stop: threading.Event
) -> None:
    with (
        nullcontext() if options.once else observed(folder, arrivals, poll=options.poll),
        ThreadPoolExecutor(THREADS) as readers,
    ):
        scanned = -_RESCAN
        while not stop.is_set():
            if time.monotonic() - scanned >= _RESCAN:
                arrivals.scan(folder, time.time())
                scanned = time.monotonic()
            taken = arrivals.take(time.monotonic(), options.batch_size)
            batch = []
            for (path, _), image in zip(taken, readers.map(_read, taken), strict=True):
                if image is None:
                    logger.info("%s changed, or was removed, while it was read.", printable(path))
                    arrivals.saw(path)
                elif image.error is None or image.stamp is None or not arrivals.again(path, image.stamp):
                    batch.append(image)
            if batch:
                recorder.record(batch)
            elif not taken:
                if options.once and not arrivals.waiting:
                    return
                stop.wait(_GLANCE)
            recorder.report()


def _read(file: tuple[str, Stamp]) -> Taken | None:
    """Read a file; nothing where it is no longer the one that arrived."""
    path, stamp = file
    image = read_image(path)
    if stamp_of(path) != stamp:
        return None
    return (
        Taken(path, error=image.reason, stamp=stamp)
        if isinstance(image, Unreadable)
        else Taken(path, image, stamp=stamp)
    )


def _watch_video(recorder: Recorder, video: Video, options: WatchOptions, stop: threading.Event) -> None:
    entries = recorder.journal.entries
    last = number_of(entries[-1].row.path) if entries else -1
    frames = video.frames(options.every, last)
    with nullcontext() if video.live else closing(frames):  # a camera's are read, and closed, in a thread
        batches = newest(frames, options.batch_size, stop) if video.live else _batches(frames, options.batch_size)
        for batch in batches:
            recorder.record([Taken(frame.name, frame.image, seconds=frame.seconds) for frame in batch])
            recorder.report()
            if stop.is_set():
                return


def _batches(frames: Iterator[Frame], size: int) -> Iterator[Sequence[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _tell(row: PredictionRow) -> None:
    if row.error is not None:
        logger.warning("Cannot read %s: %s", printable(row.path), row.error)
    elif row.label == "anomalous":
        _say(f"{row.score:.3f} anomalous {printable(row.path)}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # a log shows it now
