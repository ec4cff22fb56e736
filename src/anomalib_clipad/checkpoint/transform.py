# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The transform of a checkpoint: calibration belongs to it, so it is restored or missed aloud.

The host lets a checkpoint's transform replace the model's, whatever the user asked for, while datasets keep resizing by
the model's; and a transform that it cannot save it drops, normalisation included.
"""

from typing import Any

from torch import nn

from anomalib_clipad.data.image_loader import engine_transform

SPECIFICATION = "anomalib_pre_processor_config"
"""Entry of a checkpoint from which the host restores the transform."""


def describe_input(pre_processor: nn.Module | None, image_size: tuple[int, int]) -> dict[str, Any]:
    """Describe the input of a model as plain data: the size it was asked for, and the text of the transform."""
    transform = engine_transform(pre_processor)
    return {
        "image_size": list(image_size),
        "transform": None if transform is None else " ".join(repr(transform).split()),
    }


def reconcile_input(
    checkpoint: dict[str, Any],
    saved: dict[str, Any],
    actual: dict[str, Any],
    default: dict[str, Any],
    *,
    attached: bool,
) -> None:
    """See to it that a model keeps or gets the transform of a checkpoint; ValueError if the user must choose.

    Where the host could not save the transform and the model has it already, the entry of ``checkpoint`` by which it
    would be dropped is removed. ``default`` is the model's input without a pre-processor of the user's. A model
    ``attached`` to a trainer has datasets that resize by its own transform already.
    """
    if saved["image_size"] != actual["image_size"]:
        msg = (
            f"Expected image_size to be {saved['image_size']}, at which the checkpoint was made and calibrated, but "
            f"got {actual['image_size']}. Pass the checkpoint's, or begin at another size without the checkpoint; "
            "SDP+ can still take its heads from it (heads)."
        )
        raise ValueError(msg)
    restorable = saved["transform"] is None or (checkpoint.get(SPECIFICATION) or {}).get("transform") is not None
    if saved["transform"] == actual["transform"]:
        if not restorable:
            checkpoint.pop(SPECIFICATION, None)
    elif attached or not restorable or actual != default:
        msg = (
            f"Expected pre_processor to be the checkpoint's, {saved['transform']}, but got {actual['transform']}. "
            "Pass the pre_processor that it was saved with."
        )
        raise ValueError(msg)
