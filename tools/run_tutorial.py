# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Run the tutorial, docs/tutorial.ipynb, and write its outputs into it: ``python tools/run_tutorial.py``.

Warnings of libraries are left out, since they name files of the machine.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

TUTORIAL = Path(__file__).parents[1] / "docs/tutorial.ipynb"


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run a notebook in a folder; its first error is raised."""
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(folder)}})
    notebook = client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        nbformat.write(execute(nbformat.read(TUTORIAL, as_version=4), Path(folder)), TUTORIAL)
