# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""SDP and SDP+ side by side on the held-out synthetic categories: ``python -m anomalib_clipad.quickstart``.

No network, data or GPU is needed. The same as the commands that it prints, in one process.
"""

from anomalib.engine import Engine
from rich.console import Console
from rich.table import Table

from anomalib_clipad import SDP, SDPPlus, SyntheticDefects
from anomalib_clipad.metrics.report import FILE_NAME, MetricsReport

BACKBONE = "clipad-tiny"

COMMANDS = {
    "SDP": "anomalib test --config configs/quickstart.yaml",
    "SDP+": "anomalib test --config configs/quickstart_plus.yaml",
}


def run() -> None:
    """Test both models and print their metrics by category, and where pictures and tables are."""
    reports, folders = {}, {}
    # Pictures take longer than all else together: one set is enough to look at.
    for name, model in (("SDP", SDP(BACKBONE)), ("SDP+", SDPPlus(BACKBONE, heads="embedded", visualizer=False))):
        engine = Engine(logger=False)
        engine.test(model, datamodule=SyntheticDefects(num_workers=2))
        reports[name], folders[name] = model.evaluator.report, engine.trainer.default_root_dir
    console = Console()
    console.print(comparison(reports))
    for name, folder in folders.items():
        console.print(f"{name} alone: {COMMANDS[name]}")
        console.print(f"  metrics of each category: {folder}/{FILE_NAME}", soft_wrap=True)
    console.print(f"Pictures of each test image, by SDP: {folders['SDP']}/images", soft_wrap=True)


def comparison(reports: dict[str, MetricsReport], metrics: tuple[str, ...] = ()) -> Table:
    """One row a category and a last one of means, one column a metric and model.

    Args:
        reports: Model name to its report; all of the same categories.
        metrics: Metrics to show; image AUROC, pixel AUROC and pixel AUPRO by default.
    """
    chosen = metrics or ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
    table = Table(title="SDP and SDP+ on products that clipad-tiny was not trained on")
    table.add_column("category", no_wrap=True)
    for metric in chosen:
        for name in reports:
            table.add_column(f"{metric.replace('_', ' ')}\n{name}", justify="right")
    rows = {name: {row[0]: row[2] for row in report.rows()} for name, report in reports.items()}
    for category in next(iter(rows.values())):
        values = [f"{rows[name][category][metric]:.3f}" for metric in chosen for name in reports]
        table.add_row(category, *values, style="bold" if category == "mean" else None)
    return table


if __name__ == "__main__":
    run()
