# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Imports run downwards only, each library is imported only where the design has it, and the host's private names
are touched in one room.

The guard reads the sources; it does not import them. Each check has a twin that shows a breach and proves that the
check can fail.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = "anomalib_clipad"
ROOT = Path(__file__).parents[2] / "src" / PACKAGE

# Top first. A unit is a module or subpackage directly inside the package; it imports only units of lower layers.
LAYERS = (
    {"cli", "quickstart"},
    {"compare", "demo", "scale"},
    {"__init__"},
    {"models"},
    {"prediction", "training"},
    {"checkpoint", "deploy"},
    {"metrics", "post_processing"},
    {"scoring", "data"},
    {"clip"},
    {"host", "base", "pages", "_version"},
)
DEPTH = {unit: depth for depth, units in enumerate(LAYERS) for unit in units}
HOST = {"anomalib", "lightning"}
HOST_FREE = {"clip", "base", "_version"}
# What a unit may import besides, if these extras are installed.
EXTRAS = {"compare": ("compare",), "demo": ("demo",), "scale": ("ray", "watch"), "host": ("ray",)}
# Distributions that are named otherwise than what is imported.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "open_clip": "open_clip_torch",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
OPEN_CLIP_IMPORTERS = ("clip.architectures", "clip.backbone", "clip.catalogue", "clip.sources")
STRINGS_ONLY = "clip.prompts"


def module_name(path: Path, root: Path) -> str:
    """Name of a source file inside the package: ``clip.surgery``, ``data``, or ``__init__`` for the package itself."""
    parts = path.relative_to(root).with_suffix("").parts
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def imported_names(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """Absolute dotted name of everything that a module imports, in functions and under conditions too."""
    inside = [] if module == "__init__" else module.split(".")
    package = [PACKAGE, *(inside if is_package else inside[:-1])]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import name`: the name may be a module or a member of one
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def read_imports(root: Path) -> dict[str, set[str]]:
    """Every module below ``root`` with the absolute names that it imports."""
    return {
        module_name(path, root): set(
            imported_names(
                ast.parse(path.read_text(encoding="utf-8")),
                module_name(path, root),
                is_package=path.name == "__init__.py",
            )
        )
        for path in sorted(root.rglob("*.py"))
    }


def unit_of(name: str) -> str:
    """Unit that an absolute name of this package lies in: the names in ``__init__`` belong to ``__init__``."""
    first = name.split(".")[1] if "." in name else "__init__"
    return first if first in DEPTH else "__init__"


def layer_breaches(imports: dict[str, set[str]]) -> list[str]:
    """Imports that run upwards or sideways, and modules without a layer."""
    breaches = []
    for module, names in imports.items():
        unit = module.split(".")[0]
        if unit not in DEPTH:
            breaches.append(f"{module} has no layer: add it to LAYERS")
            continue
        own = sorted(name for name in names if name.split(".")[0] == PACKAGE)
        breaches += [
            f"{module} imports {name}" for name in own if unit_of(name) != unit and DEPTH[unit_of(name)] <= DEPTH[unit]
        ]
    return breaches


def library_breaches(imports: dict[str, set[str]]) -> list[str]:
    """Libraries imported where the design does not have them."""
    breaches = []
    for module, names in imports.items():
        for library in sorted({name.split(".")[0] for name in names}):
            if library == "open_clip" and module not in OPEN_CLIP_IMPORTERS:
                breaches.append(f"{module} imports open_clip: only {' and '.join(OPEN_CLIP_IMPORTERS)} do")
            if library in HOST and module.split(".")[0] in HOST_FREE:
                breaches.append(f"{module} imports {library}: the host is not known down there")
            if module == STRINGS_ONLY and library not in sys.stdlib_module_names:
                breaches.append(f"{module} imports {library}: it holds strings only")
    return breaches


def undeclared_libraries(imports: dict[str, set[str]], requirements: Iterable[str]) -> list[str]:
    """Libraries that are imported and not among the package's own requirements, whoever else brings them."""
    declared = {canonicalize_name(Requirement(line).name) for line in requirements}
    libraries = {name.split(".")[0] for names in imports.values() for name in names}
    return sorted(
        library
        for library in libraries - set(sys.stdlib_module_names) - {PACKAGE}
        if canonicalize_name(DISTRIBUTIONS.get(library, library)) not in declared
    )


def cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Circles of modules that import each other."""
    graph = {
        module: {target for name in names if (target := nearest_module(name, imports)) not in {None, module}}
        for module, names in imports.items()
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append([*trail[trail.index(module) :], module])
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def nearest_module(name: str, modules: Iterable[str]) -> str | None:
    """Module of this package that an absolute name lies in, or None for a name of a library."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    candidates = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
    return next((candidate for candidate in candidates if candidate in modules), "__init__")


def is_private(name: str) -> bool:
    """Whether a name is private by its underscore; a named tuple's methods are not."""
    return (
        name.startswith("_") and not name.startswith("__") and name not in {"_asdict", "_fields", "_make", "_replace"}
    )


def own_names(trees: Iterable[ast.AST]) -> set[str]:
    """Names that modules define: functions, classes, variables and fields, attributes of ``self`` and ``cls``."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
                names.add(name)
    return names


def private_breaches(root: Path) -> set[str]:
    """Private names of others that modules outside ``host`` touch: by import, as an attribute, or by ``getattr``."""
    trees = {module_name(path, root): ast.parse(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")}
    own, breaches = own_names(trees.values()), set()
    for module, node in ((module, node) for module, tree in trees.items() for node in ast.walk(tree)):
        match node:
            case ast.Import(names=aliases):
                names = [part for alias in aliases for part in alias.name.split(".")]
            case ast.ImportFrom(module=str(source), names=aliases, level=0) if source.split(".")[0] != PACKAGE:
                names = [*source.split("."), *(alias.name for alias in aliases)]
            case ast.Attribute(attr=name):
                names = [name]
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"), args=[_, ast.Constant(name), *_]
            ):
                names = [name]
            case _:
                continue
        if module.split(".")[0] != "host":
            breaches |= {f"{module} touches {name}" for name in names if is_private(name) and name not in own}
    return breaches


def test_only_the_room_for_it_touches_private_names_of_the_host() -> None:
    assert private_breaches(ROOT) == set()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("trainer._data_connector.attach_data()", "_data_connector"),
        ("class A:\n    def f(self):\n        return self._trainer", "_trainer"),
        ("engine.trainer._default_root_dir = folder", "_default_root_dir"),
        ("getattr(trainer, '_callback_connector')", "_callback_connector"),
        ("from lightning.pytorch.trainer import _x", "_x"),
        ("from anomalib._private.models import x", "_private"),
        ("import lightning.pytorch._graveyard", "_graveyard"),
    ],
    ids=["attribute", "inherited", "assignment", "by name", "name", "module", "import"],
)
def test_guard_of_private_names_can_fail(package: Path, source: str, name: str) -> None:
    (package / "models/sdp.py").write_text(source, encoding="utf-8")
    assert private_breaches(package) == {f"models.sdp touches {name}"}
    (package / "host.py").write_text(source, encoding="utf-8")
    (package / "models/sdp.py").write_text("def f(x):\n    x._a = x._replace(b=1)\n\ndef _a(): ...", encoding="utf-8")
    assert private_breaches(package) == set()


def test_imports_run_downwards() -> None:
    assert layer_breaches(read_imports(ROOT)) == []


def test_libraries_are_imported_where_the_design_has_them() -> None:
    assert library_breaches(read_imports(ROOT)) == []


def test_every_imported_library_is_declared() -> None:
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text())["project"]
    base, extras, imports = project["dependencies"], project["optional-dependencies"], read_imports(ROOT)
    for unit in DEPTH:
        own = {module: names for module, names in imports.items() if module.split(".")[0] == unit}
        added = [line for extra in EXTRAS.get(unit, ()) for line in extras[extra]]
        assert undeclared_libraries(own, [*base, *added]) == []


def test_no_cycles() -> None:
    assert cycles(read_imports(ROOT)) == []


def test_the_guard_reads_the_package() -> None:
    imports = read_imports(ROOT)
    assert {"__init__", "clip.prompts", "clip.surgery"} <= set(imports)
    assert any(name.startswith("torch") for name in imports["clip.surgery"])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package that keeps the rules."""
    sources = {
        "__init__.py": "from .models.sdp import SDP",
        "models/sdp.py": "import anomalib\nfrom anomalib_clipad.scoring.torch_model import SDPModel",
        "scoring/torch_model.py": "import anomalib\nfrom ..clip.surgery import tokens\nfrom . import anomaly_map",
        "scoring/anomaly_map.py": "import torch",
        "metrics/report.py": "",
        "clip/__init__.py": "",
        "clip/backbone.py": "import open_clip",
        "clip/prompts.py": "from collections.abc import Sequence",
        "clip/surgery.py": "from .backbone import load",
    }
    for name, source in sources.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path / PACKAGE


def test_a_package_that_keeps_the_rules_passes(package: Path) -> None:
    imports = read_imports(package)
    assert layer_breaches(imports) == []
    assert library_breaches(imports) == []
    assert cycles(imports) == []


@pytest.mark.parametrize(
    ("file", "source", "breach"),
    [
        ("clip/surgery.py", "from ..scoring import loss", "clip.surgery imports anomalib_clipad.scoring.loss"),
        ("clip/surgery.py", "from anomalib_clipad import SDP", "clip.surgery imports anomalib_clipad.SDP"),
        ("clip/surgery.py", "import anomalib_clipad", "clip.surgery imports anomalib_clipad"),
        ("metrics/report.py", "from ..post_processing import fuse", "metrics.report imports anomalib_clipad.post"),
        ("scoring/loss.py", "def f():\n    from .. import models", "scoring.loss imports anomalib_clipad.models"),
        ("utils.py", "", "utils has no layer"),
    ],
    ids=["upwards", "from the top", "the top itself", "sideways", "inside a function", "unknown unit"],
)
def test_layer_guard_can_fail(package: Path, file: str, source: str, breach: str) -> None:
    (package / file).write_text(source, encoding="utf-8")
    (found,) = layer_breaches(read_imports(package))
    assert found.startswith(breach)


@pytest.mark.parametrize(
    ("file", "source", "breach"),
    [
        (
            "clip/surgery.py",
            "from open_clip.transformer import ResidualAttentionBlock",
            "clip.surgery imports open_clip",
        ),
        ("clip/surgery.py", "import anomalib.data", "clip.surgery imports anomalib:"),
        ("clip/surgery.py", "def f():\n    from lightning import Trainer", "clip.surgery imports lightning:"),
        ("clip/prompts.py", "import torch", "clip.prompts imports torch:"),
        ("clip/prompts.py", "from .surgery import tokens", "clip.prompts imports anomalib_clipad:"),
    ],
)
def test_library_guard_can_fail(package: Path, file: str, source: str, breach: str) -> None:
    (package / file).write_text(source, encoding="utf-8")
    (found,) = library_breaches(read_imports(package))
    assert found.startswith(breach)


def test_declaration_guard_can_fail() -> None:
    imports = {"clip.surgery": {"torch.nn", "open_clip", "no_such_library", "math"}}
    assert undeclared_libraries(imports, ["open_clip_torch>=2.24", "rich"]) == ["no_such_library", "torch"]


def test_cycle_guard_can_fail(package: Path) -> None:
    (package / "clip" / "backbone.py").write_text("from anomalib_clipad.clip import surgery", encoding="utf-8")
    (circle,) = cycles(read_imports(package))
    assert set(circle) == {"clip.backbone", "clip.surgery"}
