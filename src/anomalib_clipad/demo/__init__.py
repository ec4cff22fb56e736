# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""A page in the browser to try a model on: drop an image, change the words."""

from importlib.util import find_spec

if find_spec("gradio") is None:
    msg = (
        "Expected the extra 'demo' to be installed, but got no gradio. Install it: pip install 'anomalib-clipad[demo]'."
    )
    raise ImportError(msg)
