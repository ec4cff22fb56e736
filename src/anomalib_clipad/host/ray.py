# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Where Ray listens."""

import os


def keep_to_this_machine() -> None:
    """Have the Ray that is started next listen on the loopback address alone, whatever address it is given.

    It does so where it has no clusters, which is not for Windows and macOS only. The environment tells its workers;
    this process may have imported Ray long before, when it read the variable. Removable when ``ray.init`` takes an
    address to listen on that it does not resolve.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
