# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Commands in processes of their own that need not import the host, which takes them ten seconds.

Each is forked from a process that has imported it and has done nothing else. What belongs to a process is its own:
folder, environment, arguments, output, signals, exit code.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("anomalib.cli.cli", "anomalib.engine", "anomalib.models", "anomalib.data"),
        *("anomalib_clipad.cli", "anomalib_clipad.scale.watch"),
    ]
)


class Running:
    """A command that has been typed, with the methods of ``subprocess.Popen`` that tests need.

    Args:
        command: A script and its arguments, or ``sys.executable -m module`` and its arguments.
        cwd: Folder to run in.
        env: The whole environment; this process's by default.
        before: What to do in the process before it begins; of a module, so that it can be pickled.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: str | Path = ".",
        env: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="command")
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        words = [str(word) for word in command]
        environment = dict(os.environ if env is None else env)
        self._process = _CONTEXT.Process(target=_be, args=(words, str(cwd), environment, self._files, before))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 600) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still runs after {timeout} s: {self.printed()}"
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return self._files[0].read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self._files[1].read_text(encoding="utf-8", errors="replace")

    def printed(self) -> str:
        """All that it has printed, without the line breaks that a terminal's width makes."""
        return " ".join(f"{self.stdout} {self.stderr}".split())


def run(command: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess:
    """Run a command to its end; options are those of :class:`Running`, others of ``subprocess.run`` are the default."""
    running = Running(command, **{name: options[name] for name in ("cwd", "env", "before") if name in options})
    return subprocess.CompletedProcess(command, running.wait(), running.stdout, running.stderr)


def _be(
    command: list[str],
    folder: str,
    environment: dict[str, str],
    files: Sequence[Path],
    before: Callable[[], None] | None,
) -> None:
    for number, file in zip((1, 2), files, strict=True):
        with file.open("wb") as opened:
            os.dup2(opened.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    for category in (DeprecationWarning, FutureWarning):  # where a call of ours causes them, as in pyproject.toml
        warnings.filterwarnings("error", category=category, module="anomalib_clipad")
    if before is not None:
        before()
    if command[0] == sys.executable:
        module, *arguments = command[command.index("-m") + 1 :]
        sys.path.insert(0, "")
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")
