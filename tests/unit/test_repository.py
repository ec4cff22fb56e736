# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold for the files of the repository: no machine or registry is recorded, and every version is pinned.

Each guard is a function from text to its breaches; its twin hands it text that breaks the rule.
"""

import ast
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import anomalib_clipad
from anomalib_clipad._version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
HEADER = "# Copyright (C) 2026 The anomalib-clipad authors\n# SPDX-License-Identifier: Apache-2.0\n"
CONSTRAINTS = {"constraints.txt": "3.", "constraints-openclip2.txt": "2.24."}
CONFIG_SUFFIXES = {".cfg", ".ini", ".json", ".lock", ".toml", ".txt", ".yaml", ".yml"}
CONFIG_NAMES = {"Makefile", "run"}
# Addresses of documents, for people to read. Everything else could be one that something downloads from.
DOCUMENT_HOSTS = {"arxiv.org", "www.apache.org"}
SUPPORTED = [
    {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": platform,
        "platform_machine": machine,
    }
    for python in ("3.10", "3.11", "3.12", "3.13")
    for platform, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
]


def tracked_files() -> list[Path]:
    """Files under version control, and new ones that will be; in an unpacked source archive all that it holds."""
    if not (ROOT / ".git").exists():
        made = re.compile(r"\.venv.*|__pycache__|.*_cache")
        return sorted(
            path
            for path in ROOT.rglob("*")
            if path.is_file() and not any(map(made.fullmatch, path.relative_to(ROOT).parts))
        )
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return sorted(path for name in set(listed.stdout.split("\0")) if name and (path := ROOT / name).is_file())


def read_text(path: Path) -> str | None:
    """Text of a file, None for a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def addresses(text: str) -> list[str]:
    """Addresses other than those of documents, and options that name an index."""
    found = [
        match[0]
        for match in re.finditer(r"\b[a-z][a-z0-9+.-]*://([^\s/\"'<>)]*)", text)
        if match[1] not in DOCUMENT_HOSTS
    ]
    return found + re.findall(r"(?:extra-)?index[-_]url|find[-_]links", text)


def machine_paths(text: str) -> list[str]:
    """Absolute paths that exist on one person's machine only."""
    return re.findall(r"(?<![\w.~$})/-])/(?:home|root|Users|work|mnt|opt|srv|scratch)/[^\s\"'`]*", text)


def unpinned(text: str) -> list[str]:
    """Lines of a constraints file other than ``name==version`` and ``name==version ; marker``."""
    breaches = []
    for line in text.splitlines():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            breaches.append(line)
            continue
        exact = re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier))
        if not exact or requirement.url or requirement.extras:
            breaches.append(line)
    return breaches


def wrong_pins(requirements: Iterable[str], constraints: str) -> list[str]:
    """Requirements that are not pinned to one version that they admit, on some supported machine."""
    pins = [Requirement(line) for line in constraints.splitlines()]
    breaches = []
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        for machine in SUPPORTED:
            if requirement.marker and not requirement.marker.evaluate(machine):
                continue
            versions = [
                pin.specifier
                for pin in pins
                if canonicalize_name(pin.name) == name and (not pin.marker or pin.marker.evaluate(machine))
            ]
            admitted = [v for v in versions if requirement.specifier.contains(str(v)[2:], prereleases=True)]
            if len(versions) != 1 or not admitted:
                breaches.append(f"{requirement} on {machine['sys_platform']}, Python {machine['python_version']}")
    return breaches


def paths_that_are_not_public(text: str) -> list[str]:
    """Modules of this package that a reader is told to use; only what ``anomalib_clipad`` itself exports is public.

    Directives of the API page, ``:::``, are no text: they name where a docstring lies.
    """
    text = re.sub(r"^::: .*$", "", text, flags=re.MULTILINE)
    return re.findall(r"anomalib_clipad\.[a-z_]\w*\.\w+|from anomalib_clipad\.\w+ import", text)


def messages(source: str) -> str:
    """Strings of a module that are no docstrings, one a line."""
    tree = ast.parse(source)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and _is_text(node)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(node.value for node in texts if id(node) not in docstrings)


def _is_text(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    return ast.get_docstring(node) is not None


def project() -> dict:
    """The project table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Text of every tracked text file, by its path in the repository."""
    return {
        path.relative_to(ROOT).as_posix(): text for path in tracked_files() if (text := read_text(path)) is not None
    }


def test_config_and_lock_files_record_no_address(texts: dict[str, str]) -> None:
    configs = {
        name: text
        for name, text in texts.items()
        if Path(name).suffix in CONFIG_SUFFIXES or Path(name).name in CONFIG_NAMES
    }
    assert {"Makefile", "pyproject.toml", "constraints.txt", ".ci/run"} <= set(configs)
    assert {name: found for name, text in configs.items() if (found := addresses(text))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "https" + "://registry.example/simple",
        "torch @ file" + ":///wheels/torch.whl",
        "git+ssh" + "://host.example/repository",
        "--extra-index-url $INDEX",
        "find-links = wheels",
    ],
)
def test_address_guard_can_fail(text: str) -> None:
    assert addresses(text)


def test_address_guard_admits_documents() -> None:
    assert addresses("# the paper: https://arxiv.org/abs/2311.00453") == []


def test_no_file_records_a_path_of_a_machine(texts: dict[str, str]) -> None:
    assert {name: found for name, text in texts.items() if (found := machine_paths(text))} == {}


@pytest.mark.parametrize("folder", ["home", "root", "Users", "work"])
def test_path_guard_can_fail(folder: str) -> None:
    path = f"/{folder}/someone/data"
    assert machine_paths(f"root: {path}") == [path]
    assert machine_paths(f'root = "{path}"') == [path]


@pytest.mark.parametrize("text", ["#!/usr/bin/env bash", "./work/data", "example.org/home/page", "$HOME/work/data"])
def test_path_guard_admits_other_paths(text: str) -> None:
    assert machine_paths(text) == []


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_are_pins_only(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) > 50
    assert unpinned(text) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch>=2.15",
        "torch",
        "torch==2.*",
        "--pre",
        "# torch",
        "torch @ file" + ":///torch.whl",
        "torch[opt]==2.15.0",
        "",
    ],
)
def test_pin_guard_can_fail(line: str) -> None:
    assert unpinned(f"numpy==2.4.6\n{line}\nrich==15.0.0 ; python_full_version < '3.11'") == [line]


def test_constraints_pin_every_requirement() -> None:
    extras = project()["optional-dependencies"]
    requirements = [*project()["dependencies"], *extras["dev"], *extras["openvino"]]
    assert wrong_pins(requirements, (ROOT / "constraints.txt").read_text(encoding="utf-8")) == []
    requirements += [*extras["compare"], *extras["real"]]
    assert wrong_pins(requirements, (ROOT / "constraints-openclip2.txt").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "constraints",
    ["", "torch==2.9.0", "torch==2.15.0 ; python_version >= '3.11'", "torch==2.15.0\ntorch==2.14.1"],
    ids=["missing", "too old", "not on every Python", "twice"],
)
def test_requirement_guard_can_fail(constraints: str) -> None:
    assert wrong_pins(["torch>=2.10"], constraints)
    assert wrong_pins(["torch>=2.10"], "torch==2.15.0") == []


@pytest.mark.parametrize(("name", "line"), CONSTRAINTS.items())
def test_constraints_hold_both_open_clip_lines(name: str, line: str) -> None:
    (pin,) = re.findall(r"^open-clip-torch==(.*)$", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert pin.startswith(line)


def test_both_constraints_files_agree_on_the_rest() -> None:
    newest, oldest = (set((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in CONSTRAINTS)
    assert {line.split("==")[0] for line in newest - oldest} == {"open-clip-torch"}


def test_version_has_one_source() -> None:
    assert project()["dynamic"] == ["version"]
    assert metadata.version("anomalib-clipad") == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d.*?)\]", changelog, flags=re.MULTILINE)[0] == __version__


def test_the_citation_names_this_version_and_the_paper(texts: dict[str, str]) -> None:
    citation = yaml.safe_load(texts["CITATION.cff"])
    assert citation["version"] == __version__
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project()["authors"]]
    assert citation["license"] == project()["license"]
    (paper,) = citation["references"]
    assert paper["url"] in texts["README.md"]
    assert len(paper["authors"]) == 8


def test_the_api_page_holds_every_public_name(texts: dict[str, str]) -> None:
    documented = re.findall(r"^::: anomalib_clipad\.(\w+)$", texts["docs/api.md"], flags=re.MULTILINE)
    assert set(documented) == set(anomalib_clipad.__all__) - {"__version__"}


def test_sources_carry_the_licence(texts: dict[str, str]) -> None:
    sources = {name: text for name, text in texts.items() if name.endswith(".py") and text}
    assert "src/anomalib_clipad/_version.py" in sources
    assert [
        name for name, text in sources.items() if not text.removeprefix("#!/usr/bin/env python\n").startswith(HEADER)
    ] == []
    assert "Apache License" in texts["LICENSE"]
    assert project()["license"] == "Apache-2.0"


def test_readers_are_sent_to_public_names_only(texts: dict[str, str]) -> None:
    read = {name: text for name, text in texts.items() if re.fullmatch(r"(docs/.*|configs/.*|README\.md)", name)}
    read |= {name: messages(text) for name, text in texts.items() if re.fullmatch(r"src/.*\.py", name)}
    assert {"README.md", "configs/quickstart.yaml", "src/anomalib_clipad/cli.py"} <= set(read)
    assert {name: found for name, text in read.items() if (found := paths_that_are_not_public(text))} == {}


def test_guard_of_public_names_can_fail() -> None:
    source = '"""Module anomalib_clipad.clip.prompts."""\nmsg = f"Call anomalib_clipad.clip.backbone.x({1})."\n'
    assert paths_that_are_not_public(messages(source)) == ["anomalib_clipad.clip.backbone"]
    assert paths_that_are_not_public("from anomalib_clipad.metrics import ReferencePRO")
    assert paths_that_are_not_public("::: anomalib_clipad.data.x\nSee anomalib_clipad.data.x") == [
        "anomalib_clipad.data.x"
    ]
    assert not paths_that_are_not_public("class_path: anomalib_clipad.SDP; python -m anomalib_clipad.quickstart")


def test_the_source_archive_holds_what_tests_read(texts: dict[str, str], tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.relative_to(ROOT).as_posix() for path in tracked_files()} - held == set()


def test_package_is_marked_as_typed() -> None:
    assert (ROOT / "src" / "anomalib_clipad" / "py.typed").is_file()
