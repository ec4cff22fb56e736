# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""``anomalib-clipad score`` from its listing to its summary: what is missing is scored, what is there is kept."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from anomalib_clipad.scale.blocks import (
    Block,
    Part,
    check_output,
    cut,
    finished,
    sweep,
)
from anomalib_clipad.scale.listing import digest_images, list_input
from anomalib_clipad.scale.output import keep
from anomalib_clipad.scale.scorer import ScorerSpec

Engine = Callable[[Sequence[Block], ScorerSpec, Path], Iterator[Part]]
"""Scores blocks and writes their files into a folder, in any order; gives each part when its file is there."""

BLOCK_SIZE = 1000
"""Images in a block, unless told otherwise: what a killed worker loses."""


@dataclass(frozen=True)
class Summary:
    """What a run has done.

    Attributes:
        output: Folder of scores.
        images: All images of the list.
        unreadable: Those that have an error in place of a score.
        scored: Images scored in this run; the others were finished before.
        seconds: What scoring took, the start of the workers included.
    """

    output: Path
    images: int
    unreadable: int
    scored: int
    seconds: float

    def __str__(self) -> str:
        """One line for the terminal."""
        rate = f" ({self.scored / self.seconds:.1f} images/s)" if self.scored else ""
        before = f", {self.images - self.scored} were there before" if self.scored < self.images else ""
        bad = f" {self.unreadable} could not be read: see the column error." if self.unreadable else ""
        return f"{self.scored} images scored in {self.seconds:.0f} s{rate}{before}.{bad} Scores: {self.output}"


def score(
    listing: str, output: str, spec: ScorerSpec, engine: Engine, block_size: int = BLOCK_SIZE, *, progress: bool = False
) -> Summary:
    """Score the images of a list that have no score yet.

    Args:
        listing: See :func:`~anomalib_clipad.scale.listing.list_input`.
        output: Folder, made if it is not there; that of an earlier run of the same settings is completed.
        spec: What scores.
        engine: Who scores.
        block_size: Images in a block.
        progress: Whether a bar is shown, if standard error is a terminal.

    Raises:
        FileExistsError: If the output is something else.
        FileNotFoundError: If there is no list.
        OSError: If nothing can be written.
        RuntimeError: If scoring fails; finished blocks are kept, and the message says how many.
        ValueError: If the list, the model or the settings are not valid; nothing is written then.
    """
    if "://" in output:
        msg = f"Expected a folder of a file system, but got the address {output}. Mount the storage, see docs/scale.md."
        raise ValueError(msg)
    folder = Path(output)
    images = list_input(listing)
    blocks = cut(images, block_size)
    settings = {**spec.describe(), "images": digest_images(images), "block_size": str(block_size)}
    check_output(folder, settings)
    parts = {part.number: part for part in finished(folder, blocks)}
    pending = [block for block in blocks if block.number not in parts]
    start = time.perf_counter()
    if pending:
        spec.check(dict.fromkeys(image.class_name for image in images))
        keep(folder, settings)
        scored = sum(len(block.images) for block in pending)
        start = time.perf_counter()
        try:
            with tqdm(total=scored, unit="images", disable=None if progress else True) as bar:
                for part in engine(pending, spec, folder):
                    bar.update(part.images)
        except (OSError, RuntimeError, ValueError) as error:
            msg = f"{error} {kept(folder, blocks)}"
            raise RuntimeError(msg) from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(kept(folder, blocks)) from None
        seconds = time.perf_counter() - start
        # What the workers say is not enough: the files count.
        parts = {part.number: part for part in finished(folder, blocks)}
        if len(parts) < len(blocks):
            msg = f"Expected all blocks to be written, but some are missing. {kept(folder, blocks)}"
            raise RuntimeError(msg)
    else:
        scored, seconds = 0, 0.0
    sweep(folder)
    return Summary(folder, len(images), sum(part.unreadable for part in parts.values()), scored, seconds)


def kept(folder: Path, blocks: Sequence[Block]) -> str:
    """Say what an unfinished run leaves behind."""
    n_finished = sum(1 for _ in finished(folder, blocks))
    return (
        f"{n_finished} of {len(blocks)} blocks are finished and kept in {folder}. The same command goes on from there."
    )
