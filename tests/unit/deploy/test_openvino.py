# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Models that are opened by OpenVINO beside each other."""

from pathlib import Path

import pytest

import warm
from anomalib_clipad.deploy.exported_model import METADATA_SECTION

OPENS_TWO = """
import signal
from anomalib_clipad.scale.exported import open_openvino

handled = []
signal.signal(signal.SIGCHLD, lambda *_: handled.append(True))
first, _ = open_openvino("model.xml", "cpu", None)
second, _ = open_openvino("model.xml", "cpu", None)
del first
del second
signal.raise_signal(signal.SIGCHLD)
print(f"{len(handled)} handled")
"""


@pytest.mark.slow
def test_signals_are_handled_after_models_that_end_in_any_order(tmp_path: Path) -> None:
    """Fails only on CPUs with AMX: see :func:`~anomalib_clipad.deploy.openvino.openvino_core`."""
    openvino = pytest.importorskip("openvino")
    given = openvino.opset8.parameter([1], name="input")
    score = openvino.opset8.relu(given, name="pred_score")
    score.output(0).set_names({"pred_score"})
    model = openvino.Model([score], [given])
    for key in ("class_names", "calibrated", "evidence"):
        model.set_rt_info("[]", [METADATA_SECTION, key])
    openvino.save_model(model, tmp_path / "model.xml")
    (tmp_path / "opens_two.py").write_text(OPENS_TWO)

    done = warm.run([tmp_path / "opens_two.py"], cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "1 handled\n"), done.stderr
