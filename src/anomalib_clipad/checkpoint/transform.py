# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The transform of a checkpoint: calibration belongs to it, so it is restored or missed aloud.

The host lets a checkpoint's transform replace the model's, whatever the user asked for, while datasets keep resizing by
the model's; and a transform that it cannot save it drops, normalisation included.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from anomalib_clipad.data.image_list import engine_transform

SPECIFICATION = "anomalib_pre_processor_config"
"""Entry of a checkpoint from which the host restores the transform."""

_ENTRY = "input"


class InputDescription(NamedTuple):
    """What a model does to images before they enter the tower.

    Attributes:
        image_size: Height and width that the model was asked for, in pixels.
        transform: Text of the transform; ``None`` for none.
    """

    image_size: tuple[int, int]
    transform: str | None


def describe_input(pre_processor: nn.Module | None, image_size: tuple[int, int]) -> InputDescription:
    """Describe the input of a model by its pre-processor and the size it was asked for."""
    transform = engine_transform(pre_processor)
    return InputDescription(image_size, None if transform is None else " ".join(repr(transform).split()))


def save_input(own_entry: dict[str, Any], description: InputDescription) -> None:
    """Add a description to a checkpoint's entry of this package, as plain data."""
    own_entry[_ENTRY] = {"image_size": list(description.image_size), "transform": description.transform}


def reconcile_input(
    checkpoint: dict[str, Any],
    own_entry: Mapping[str, Any],
    actual: InputDescription,
    default: InputDescription,
    *,
    attached: bool,
) -> None:
    """See to it that a model keeps or gets the transform that a checkpoint was saved with.

    Args:
        checkpoint: Checkpoint that is being loaded. Where the host could not save the transform and the model has it
            already, the entry by which it would be dropped is removed.
        own_entry: The checkpoint's entry of this package.
        actual: Input of the model as it is.
        default: Input of the model if it were given no pre-processor.
        attached: Whether the model is with a trainer already, whose datasets resize by the model's own transform.

    Raises:
        ValueError: If the transforms differ and the user has to decide.
    """
    if _ENTRY not in own_entry:
        return
    saved = InputDescription(tuple(own_entry[_ENTRY]["image_size"]), own_entry[_ENTRY]["transform"])
    if saved.image_size != actual.image_size:
        msg = (
            f"Expected image_size to be {list(saved.image_size)}, at which the checkpoint was made and calibrated, but "
            f"got {list(actual.image_size)}. Pass the checkpoint's, or begin at another size without the checkpoint; "
            "SDP+ can still take its heads from it (heads)."
        )
        raise ValueError(msg)
    restorable = saved.transform is None or (checkpoint.get(SPECIFICATION) or {}).get("transform") is not None
    if saved.transform == actual.transform:
        if not restorable:
            checkpoint.pop(SPECIFICATION, None)
    elif attached or not restorable or actual != default:
        msg = (
            f"Expected pre_processor to be the checkpoint's, {saved.transform}, but got {actual.transform}. "
            "Pass the pre_processor that it was saved with."
        )
        raise ValueError(msg)
