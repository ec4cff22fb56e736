# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Alternated runs and their medians: machines differ and are noisy, ratios within one run less so."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def alternate(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time functions in turn, A B C A B C, after one round that does not count.

    Returns:
        Seconds of each round, for each function.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def run_module(module: str, *arguments: str, python: str | Path = sys.executable) -> str:
    """Run a module in a fresh process and return the last line of its output.

    Raises:
        RuntimeError: If it fails; the message holds the end of what it printed.
    """
    process = subprocess.run(
        [str(python), "-W", "ignore", "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if process.returncode:
        msg = f"Expected {module} to run, but got exit code {process.returncode}: {process.stderr[-2000:]}"
        raise RuntimeError(msg)
    return process.stdout.strip().splitlines()[-1]


def time_anomalib(folder: Path, *arguments: str, threads: int | None = None) -> float:
    """Seconds that a command of anomalib takes in a folder, its imports included; with so many threads a process.

    Raises:
        RuntimeError: If it fails; the message holds the end of what it printed.
    """
    command = [str(Path(sys.executable).with_name("anomalib")), *arguments]
    start = time.perf_counter()
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if process.returncode:
        output = (process.stdout + process.stderr)[-2000:]
        msg = f"Expected {' '.join(command)} to run, but got exit code {process.returncode}: {output}"
        raise RuntimeError(msg)
    return seconds
