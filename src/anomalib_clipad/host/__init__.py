# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What reaches into the private state of anomalib or Lightning, and nothing else."""
