# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What is deployed of a model, and its files: PyTorch, ONNX and OpenVINO."""
