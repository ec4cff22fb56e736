# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The quick tests on every Python that is here, with the newest versions of all packages and with the oldest.

`make matrix` runs them all, `make matrix SESSIONS=oldest` one; interpreters are those on the PATH.
"""

import nox

nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False

VERSIONS = """
import importlib.metadata as found, platform
names = "anomalib", "torch", "open_clip_torch", "lightning", "numpy"
print("|", platform.python_version(), "|", " | ".join(map(found.version, names)), "|")
"""


def check(session: nox.Session) -> None:
    """Say what was installed, and run the quick tests on it."""
    session.run("python", "-c", VERSIONS)
    quick = ("-m", "not slow", "--numprocesses", "2", "--dist", "loadfile", "-q")
    tests = ("tests/unit", "tests/integration/test_snippets.py")
    session.run("python", "-m", "pytest", *quick, *tests, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def newest(session: nox.Session) -> None:
    """The versions of constraints.txt."""
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")
    check(session)


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The lowest version of each of the package's own requirements."""
    session.install("--resolution", "lowest-direct", "--editable", ".[dev,compare]")
    check(session)
