# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What a person types after ``anomalib-clipad score``, as settings of a run; and what they are told."""

import sys
from functools import partial
from typing import Any

from anomalib_clipad.scale.job import score
from anomalib_clipad.scale.ray_scoring import score_by_ray
from anomalib_clipad.scale.scorer import ScorerSpec

_STOPPED = 130
"""What a shell calls a command that was stopped by Ctrl-C."""


def score_command(model: Any, options: Any) -> int:
    """Score, and say in a line what was done.

    Args:
        model: Class and arguments as they were given, without defaults; ``None`` for none.
        options: The other options.

    Returns:
        0; 1 if images could not be read; 130 if it was stopped.

    Raises:
        OSError: See :func:`~anomalib_clipad.scale.job.score`.
        RuntimeError: The same.
        ValueError: The same; or if nothing, or too much, is to score.
    """
    spec = make_spec(model, options)
    if options.workers < 1:
        msg = f"Expected workers to be at least 1, but got {options.workers}."
        raise ValueError(msg)
    engine = partial(score_by_ray, workers=options.workers, address=options.address)
    try:
        summary = score(options.input, options.output, spec, engine, options.block_size, progress=True)
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"Stopped. {stopped}\n")
        return _STOPPED
    sys.stdout.write(f"{summary}\n")
    return 1 if summary.unreadable else 0


def make_spec(model: Any, options: Any) -> ScorerSpec:
    """What scores, by the options.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If nothing, or more than one thing, is to score.
    """
    exported = options.onnx or options.openvino
    if model is None and not exported and options.ckpt_path is None:
        msg = "Expected one of --model, --ckpt_path, --onnx and --openvino to say what scores, but got none."
        raise ValueError(msg)
    if model is not None and exported:
        msg = f"Expected a model or an exported file, but got both. Leave out --model or {exported}."
        raise ValueError(msg)
    given = {} if model is None else model.as_dict()
    return ScorerSpec(
        **({"class_path": given["class_path"]} if given else {}),
        init_args=given.get("init_args", {}),
        ckpt_path=options.ckpt_path,
        onnx=options.onnx,
        openvino=options.openvino,
        device=options.device,
        batch_size=options.batch_size,
        threads=options.threads,
    )
