# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Plain similarity, SDP and SDP+ side by side on the held-out synthetic categories.

``python -m anomalib_clipad.quickstart`` needs no network, data or GPU. For SDP and SDP+ it does the same, in one
process, as the commands that it prints.
"""

from anomalib.engine import Engine
from rich.console import Console
from rich.table import Table

from anomalib_clipad import SDP, SDPPlus, SyntheticDefects
from anomalib_clipad.metrics.report import FILE_NAME, MetricsReport
from anomalib_clipad.prediction.page import PAGE_FILE

BACKBONE = "clipad-tiny"

COMMANDS = {
    "SDP": "anomalib test --config configs/quickstart.yaml",
    "SDP+": "anomalib test --config configs/quickstart_plus.yaml",
}

MEANING = (
    "What this shows: in a CLIP that learnt from captions alone the plain similarity of patches and text does not find "
    "defects, SDP's surgery does, and trained heads outline them better. What it does not prove: these are drawings, "
    "and so was nearly all that the model learnt from; on photographs of your product use the default backbone, and "
    "measure."
)


def run() -> None:
    """Test the models and print their metrics by category, what they say, and where pages and tables are."""
    models = {  # the host's pictures would take longer than all else together, and the page shows more
        "plain": SDP(BACKBONE, architecture_surgery=False, feature_surgery=False, visualizer=False, page=False),
        "SDP": SDP(BACKBONE, visualizer=False),
        "SDP+": SDPPlus(BACKBONE, heads="embedded", visualizer=False),
    }
    reports, folders = {}, {}
    for name, model in models.items():
        engine = Engine(logger=False)
        engine.test(model, datamodule=SyntheticDefects(num_workers=2))
        reports[name], folders[name] = model.evaluator.report, engine.trainer.default_root_dir
    console = Console()
    console.print(comparison(reports))
    console.print(MEANING)
    for name, command in COMMANDS.items():
        console.print(f"{name} alone: {command}")
        console.print(f"  metrics of each category: {folders[name]}/{FILE_NAME}", soft_wrap=True)
        console.print(f"  a page to look through its images and maps: {folders[name]}/{PAGE_FILE}", soft_wrap=True)


def comparison(reports: dict[str, MetricsReport], metrics: tuple[str, ...] = ()) -> Table:
    """One row a category and a last one of means, one column a metric and model.

    Args:
        reports: Model name to its report; all of the same categories.
        metrics: Metrics to show; image AUROC, pixel AUROC and pixel AUPRO by default.
    """
    chosen = metrics or ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
    title = "Products that clipad-tiny was not trained on, × 100"
    table = Table(title=title, collapse_padding=True, pad_edge=False)  # fits 80 columns
    table.add_column("category", no_wrap=True)
    for metric in chosen:
        for name in reports:
            table.add_column(f"{metric}\n{name}".replace("_", "\n"), justify="right", no_wrap=True)
    rows = {name: {row[0]: row[2] for row in report.rows()} for name, report in reports.items()}
    for category in next(iter(rows.values())):
        values = [f"{100 * rows[name][category][metric]:.1f}" for metric in chosen for name in reports]
        table.add_row(category, *values, style="bold" if category == "mean" else None)
    return table


if __name__ == "__main__":
    run()
