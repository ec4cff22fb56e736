# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Every snippet of README.md and docs/ works: Python is run, commands and configurations are parsed by what reads them.

A new snippet needs no entry here. One that fits no rule fails, until it has a rule (``CHECKS`` by its language,
``PROGRAMS`` by its program) or a reason in ``NOT_CHECKED``. Python of a page is run as it is read, from top to bottom:
names of one snippet are known in the next. What stands for the reader's own is small: ``on_the_small_backbone`` for the
paper's backbone, and the files of ``write_photos`` and ``PREPARATIONS``.
"""

import inspect
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import openvino
import pytest
import yaml
from anomalib.cli import AnomalibCLI
from markdown_it import MarkdownIt

import anomalib_clipad
import layouts
from anomalib_clipad import SDP, ImageList, SDPPlus, cli
from tiny import sdp

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]

# Page and first line of a snippet that cannot be checked, and why.
NOT_CHECKED: dict[tuple[str, str], str] = {}

# What `…` stands for in the host's commands, and the command that lines of options alone belong to.
LEFT_OUT = {
    "predict": "--model anomalib_clipad.SDP",
    "train": "--model anomalib_clipad.SDPPlus --data MVTec",
}
OPTIONS_ALONE = "anomalib train --model anomalib_clipad.SDPPlus --data MVTec"


class Snippet(NamedTuple):
    """A block of code of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def read_snippets(page: str, text: str) -> list[Snippet]:
    """Blocks of code, fenced or indented; these have no language."""
    blocks = (token for token in MarkdownIt().parse(text) if token.type in {"fence", "code_block"})
    return [Snippet(page, block.map[0] + 1, block.info.strip(), block.content) for block in blocks if block.map]


def inline_code(text: str) -> list[str]:
    """Code within the sentences and tables of a page."""
    tokens = MarkdownIt().enable("table").parse(text)
    return [part.content for token in tokens for part in token.children or () if part.type == "code_inline"]


SNIPPETS = [
    snippet
    for path in PAGES
    for snippet in read_snippets(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    if (path.relative_to(ROOT).as_posix(), snippet.text.splitlines()[0]) not in NOT_CHECKED
]


# Commands.


class ParsedCLI(AnomalibCLI):
    """The host's command line, which makes nothing of what it has parsed."""

    def before_instantiate_classes(self) -> None:
        """Leave the configuration alone."""

    def instantiate_classes(self) -> None:
        """Make no model."""


class ParsedError(BaseException):
    """A command has been parsed; nothing is to be run."""


def parse_anomalib(words: list[str]) -> None:
    left_out = LEFT_OUT.get(words[0], "").split()
    given = [part for word in words for part in (left_out if word == "…" else [word])]
    ParsedCLI(args=given, run=False)


def parse_own(words: list[str]) -> None:
    """Parse by the package's own command line, whichever its commands are."""
    parse = cli.ArgumentParser.parse_args

    def parse_only(self: Any, given: list[str], **of_subcommand: Any) -> Any:
        parsed = parse(self, given, **of_subcommand)
        if of_subcommand:
            return parsed
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.ArgumentParser, "parse_args", parse_only)
        with pytest.raises(ParsedError):
            cli.main(words)


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {word for word in words if "=" not in word}
    assert targets <= set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.MULTILINE)), words


def check_python(words: list[str]) -> None:
    """Check that a script or module is there, and knows its options."""
    if words[0] == "-m":
        spec = find_spec(words[1])
        assert spec is not None, words
        origin, rest = Path(str(spec.origin)), words[2:]
        sources = [*origin.parent.glob("*.py")] if origin.name == "__init__.py" else [origin]
    else:
        sources, rest = [ROOT / words[0]], words[1:]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert [word for word in rest if word.startswith("--") and f'"{word}"' not in text] == []


def check_pip(words: list[str]) -> None:
    extras = re.findall(r"\[(.*)\]", " ".join(words))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert words[0] == "install"
    assert [extra for extra in extras if not re.search(rf"^{extra} = \[", project, flags=re.MULTILINE)] == []


def check_launcher(words: list[str]) -> None:
    """Check the command that is started in each process, the last word after ``sh -c``."""
    check_shell(words[words.index("-c") + 1])


def check_ray(words: list[str]) -> None:
    """Check that Ray's own command line has the command and its options."""
    from ray.scripts.scripts import cli as ray

    known = {option for parameter in ray.commands[words[0]].params for option in parameter.opts}
    assert [word for word in words[1:] if word.startswith("--") and word not in known] == []


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "anomalib": parse_anomalib,
    "anomalib-clipad": parse_own,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "ray": check_ray,
    "torchrun": check_launcher,
}


def commands(text: str) -> Iterator[list[str]]:
    """Commands of a script as words, with its variables put in."""
    variables: dict[str, str] = {}
    without_comments = re.sub(r"(?m)(?:^|\s+)# .*$", "", text.replace("\\\n", " "))
    for statement in re.findall(r"(?:'[^']*'|[^\n'])+", without_comments):
        words = shlex.split(re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), statement))
        if len(words) == 1 and (assigned := re.fullmatch(r"(\w+)=(.*)", words[0])):
            variables[assigned[1]] = assigned[2]
        elif words:
            yield words


def check_shell(text: str) -> None:
    for words in commands(text):
        program, *rest = [*OPTIONS_ALONE.split(), *words] if words[0].startswith("--") else words
        assert program in PROGRAMS, f"no rule for {program}"
        try:
            PROGRAMS[program](rest)
        except SystemExit as error:
            raise AssertionError(words) from error


# Configurations and tables.


def check_yaml(text: str) -> None:
    """Parse a configuration by what reads it, which its keys tell."""
    path = Path("snippet.yaml").absolute()
    path.write_text(text, encoding="utf-8")
    keys = set(yaml.safe_load(text))
    if keys <= {"data", "model", "trainer"}:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            parse_anomalib([*OPTIONS_ALONE.split()[1:], "--config", str(path)])
    elif "expected" in keys:
        parse_own(["compare", "--config", str(ROOT / "configs/paper_mvtec.yaml"), "--config", str(path)])
    else:
        sdp(prompts=str(path))


def check_csv(text: str) -> None:
    path = Path("snippet.csv")
    path.write_text(text, encoding="utf-8")
    for line in text.splitlines()[1:]:
        layouts.write_images(Path(line.split(",")[0]).parent, 1)
    images = ImageList(path)
    images.setup()
    assert set(images.categories) == {line.split(",")[1] for line in text.splitlines()[1:]}


CHECKS: dict[str, Callable[[str], None]] = {"sh": check_shell, "yaml": check_yaml, "csv": check_csv}


@pytest.mark.parametrize("snippet", [each for each in SNIPPETS if each.language != "python"], ids=lambda s: s.name)
def test_commands_and_configurations(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert snippet.language in CHECKS, "no rule for this language"
    monkeypatch.chdir(ROOT if snippet.language == "sh" else tmp_path)

    CHECKS[snippet.language](snippet.text)


# Python.

PHOTOS = 20  # the least to calibrate on
PIXELS = 250  # a little more than the tile of a snippet


def write_photos() -> None:
    """Write what pages call the reader's own: photographs, good and new ones among them, a list, a dataset."""
    for folder, n in (("photos", PHOTOS - 4), ("photos/good", 2), ("photos/new", 2)):
        layouts.write_images(Path(folder), n, size=PIXELS)
    Path("images.csv").write_text("path,class_name\nphotos/000.png,gasket\nphotos/001.png,metal_nut\n")
    for folder, mask in (("good", None), ("defective", "datasets/gaskets/masks/{stem}.png")):
        layouts.write_images(Path("datasets/gaskets") / folder, 4, anomalous=mask is not None, masks=mask)


def write_exports() -> None:
    """Write the files that the commands of docs/export.md write; OpenVINO's is made of the graph that is there."""
    model = sdp(class_name="nut")
    model.to_torch("out")
    openvino.save_model(openvino.convert_model(model.to_onnx("out")), "out/weights/openvino/model.xml")


def write_marks() -> None:
    """``marked.csv`` as the page of a run saves it."""
    photos = sorted(Path("photos").glob("*.png"))
    lines = [f"{path},gasket,{'bad' if number % 3 else 'good'}" for number, path in enumerate(photos)]
    Path("marked.csv").write_text("\n".join(["path,class_name,label", *lines]), encoding="utf-8")


PREPARATIONS: dict[str, Callable[[], None]] = {"docs/export.md": write_exports, "docs/thresholds.md": write_marks}


def on_the_small_backbone(source: str) -> str:
    """Python with the model that ships with the package where it names none, for the paper's is downloaded."""
    return re.sub(r"\b(SDP|SDPPlus)\((?=\)|\w+=)", r'\1("clipad-tiny", ', source)


def run_python(snippets: list[Snippet]) -> None:
    """Run the snippets of a page, one after another, each with the names of those before it."""
    names: dict[str, Any] = {}
    for snippet in snippets:
        path = Path(f"{Path(snippet.page).stem}_{snippet.line}.py")
        path.write_text(on_the_small_backbone(snippet.text), encoding="utf-8")
        names = runpy.run_path(str(path), names)


PYTHON = {
    page: [each for each in SNIPPETS if each.page == page and each.language == "python"]
    for page in sorted({each.page for each in SNIPPETS if each.language == "python"})
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON)
def test_python(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRUST_REMOTE_CODE", "0")  # a snippet sets it; this puts it back
    write_photos()
    PREPARATIONS.get(page, lambda: None)()
    capsys.readouterr()

    run_python(PYTHON[page])

    printed = capsys.readouterr().out
    assert printed or not any("print(" in snippet.text for snippet in PYTHON[page])


# Options within the text.


def options_of(prefix: str) -> set[str]:
    """First names of the options that ``--model.`` or ``--data.`` may be followed by."""
    public = (
        [SDP, SDPPlus]
        if prefix == "model"
        else [getattr(anomalib_clipad, name) for name in ("ImageList", "MVTec", "SyntheticDefects", "Transfer")]
    )
    classes = [base for each in public for base in each.__mro__ if "__init__" in vars(base)]
    return {name for each in classes for name in inspect.signature(each.__init__).parameters}


def unknown_in_the_text(text: str) -> list[str]:
    """Options of models and datamodules, and targets of make, that there are not."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = []
    for code in inline_code(text):
        found += [
            option
            for option in re.findall(r"--((?:model|data)\.\w+)", code)
            if option.split(".")[1] not in options_of(option.split(".")[0])
        ]
        target = re.match(r"make ([a-z0-9-]+)$", code)
        found += [code] if target and f"\n{target[1]}:" not in makefile else []
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_within_the_text(path: Path) -> None:
    assert unknown_in_the_text(path.read_text(encoding="utf-8")) == []


# That all of this can fail.


def test_snippets_are_found() -> None:
    assert {snippet.language for snippet in SNIPPETS} == {"python", *CHECKS}
    assert len(SNIPPETS) > 40
    assert [each.language for each in read_snippets("x", "a\n\n    b\n\n```sh\nc\n```\n")] == ["", "sh"]


def test_what_is_not_checked_is_there() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
    assert [key for key in NOT_CHECKED if key[1] not in texts[key[0]]] == []


@pytest.mark.parametrize(
    "command",
    [
        "anomalib predict --model anomalib_clipad.SDP --model.clas_name x --data photos",
        "anomalib predict … --model.scales much --data photos",
        "anomalib test --config configs/none.yaml",
        "--trainer.precison bf16-mixed",
        "anomalib-clipad backbones --mtach siglip2",
        "anomalib-clipad campare",
        "make coffee",
        "pip install '.[none]'",
        "python -m benchmarks.none",
        "python -m benchmarks.prompts --none",
        "torchrun --nnodes 2 sh -c 'anomalib train --model.none 1'",
        "rm -rf results",
        "ray start --haed",
        "anomalib-clipad score --input a.csv --output b --wrokers 2",
        "make bench # measured\nmake coffee",
    ],
)
def test_wrong_commands_fail(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(AssertionError):
        check_shell(command)


@pytest.mark.parametrize(
    "text", ["model: {init_args: {none: 1}}", "expected: 3", "extends: industrial\nanomalous_states: [torn]"]
)
def test_wrong_configurations_fail(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, ValueError)):
        check_yaml(text)


def test_wrong_python_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = Snippet("x.md", 1, "python", "a = 1"), Snippet("x.md", 5, "python", "assert a == 1\nb")
    run_python([first])
    with pytest.raises(NameError, match="'b'"):
        run_python([first, second])


def test_the_small_backbone_is_put_in_where_none_is_named() -> None:
    assert on_the_small_backbone('SDP(); SDPPlus(heads="h"); SDP("x"); SDP.load("y")') == (
        'SDP("clipad-tiny", ); SDPPlus("clipad-tiny", heads="h"); SDP("x"); SDP.load("y")'
    )


def test_unknown_options_within_the_text_are_found() -> None:
    text = "`--model.none 3`, `make coffee`, not `--model.tiles.size 240`, `make test`\n\n| a |\n| - |\n| `--data.x` |"
    assert unknown_in_the_text(text) == ["model.none", "make coffee", "data.x"]
