# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-clipad``: what anomalib's own command line cannot do."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

if TYPE_CHECKING:
    from anomalib_clipad.compare.records import Record

_TABLE_WIDTH = 150
"""Columns from which the table of backbones keeps whole names; a narrower terminal breaks its lines."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exits with 1 where a job failed or a check did, with 2 on a wrong argument or config."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.path.append(str(Path.cwd()))  # a config may name classes of the user's own, as with `python -m`
    parser = ArgumentParser(prog="anomalib-clipad", description="CLIP-AD beside anomalib's command line.")
    commands = parser.add_subcommands()
    try:
        # The host's models take many seconds to import: only the command that is run imports anything.
        commands.add_subcommand(
            "compare", _compare_parser(full="compare" in given), help="run a grid of models and datasets; see configs/"
        )
        commands.add_subcommand("report", _report_parser(), help="write the report of a comparison again")
        commands.add_subcommand("backbones", _backbones_parser(), help="list the backbones with their size and cost")
        commands.add_subcommand(
            "demo", _demo_parser(full="demo" in given), help="serve a page to try a model on images of your own"
        )
        commands.add_subcommand(
            "watch",
            _watch_parser(full="watch" in given),
            help="score what arrives in a folder, a video or a camera, and go on after a restart",
        )
        commands.add_subcommand(
            "score", _score_parser(full="score" in given), help="score very many images, on many cores or machines"
        )
        options = parser.parse_args(given)
        run: dict[str, Callable[[Namespace], int]] = {
            "compare": _compare,
            "report": _report,
            "backbones": _backbones,
            "demo": _demo,
            "score": partial(_score, given),
            "watch": partial(_watch, given),
        }
        status = run[options.subcommand](options[options.subcommand])
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    sys.exit(status)


def _compare_parser(*, full: bool) -> ArgumentParser:
    parser = ArgumentParser(description="Run what is missing of a grid, and write tables and a page of its results.")
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of the options")
    parser.add_argument(
        "--check", action="store_true", help="fail where an expected figure is not reached or was not measured"
    )
    if full:
        from anomalib_clipad.compare.config import make_config

        parser.add_function_arguments(make_config)
    return parser


def _report_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Write results.csv, results.md and index.html from the records.")
    parser.add_argument("output", type=Path, help="folder of the comparison")
    return parser


def _backbones_parser() -> ArgumentParser:
    parser = ArgumentParser(description="List the backbones that models accept, with their size and relative cost.")
    parser.add_argument("--match", default="", help="only those whose names contain this, such as siglip2")
    parser.add_argument("--refused", action="store_true", help="list open_clip's other models, and why they are none")
    return parser


def _demo_parser(*, full: bool) -> ArgumentParser:
    parser = ArgumentParser(description="Serve a page on which images are scored under words that one may change.")
    if full:
        from anomalib_clipad.demo.command import serve

        parser.add_function_arguments(serve)
    return parser


def _demo(options: Namespace) -> int:
    from anomalib_clipad.demo.command import serve

    serve(**vars(options))
    return 0


def _score_parser(*, full: bool) -> ArgumentParser:
    parser = ArgumentParser(description="Score images by Ray Data; what is finished is kept, and not scored again.")
    parser.add_argument("--input", required=True, help="folder, or .csv or .parquet file with a column path")
    parser.add_argument(
        "--output", required=True, help="folder of Parquet files that is written, such as scores.parquet"
    )
    if full:
        from anomalib_clipad import SDP, SDPPlus

        parser.add_subclass_arguments((SDP, SDPPlus), "model", required=False, instantiate=False)
    parser.add_argument("--ckpt_path", help="checkpoint of the model")
    parser.add_argument("--onnx", help="file of `anomalib export --export_type onnx`, in place of a model")
    parser.add_argument("--openvino", help=".xml file of `anomalib export --export_type openvino`, in place of a model")
    parser.add_argument("--workers", type=int, default=1, help="worker processes, on all machines together")
    parser.add_argument("--threads", type=int, default=1, help="threads, and cores, of each worker")
    parser.add_argument("--batch_size", type=int, default=8, help="images in a batch")
    parser.add_argument("--block_size", type=int, default=1000, help="images in a file, which are finished together")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU for each worker")
    parser.add_argument("--address", help="head of a running Ray cluster, host:port or auto; without, this machine")
    return parser


def _score(given: list[str], options: Namespace) -> int:
    from anomalib_clipad.scale import require_ray

    require_ray()
    from anomalib_clipad.scale.command import score_command

    # Without defaults: a checkpoint keeps the arguments that nobody gives anew.
    told = _score_parser(full=True).parse_args(given[given.index("score") + 1 :], defaults=False)
    return score_command(told.get("model"), options)


def _backbones(options: Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from anomalib_clipad.clip.catalogue import BackboneFacts, refused, supported

    with Console(stderr=True).status("Building towers without their weights, a minute for all …"):
        rows: list[tuple[Any, ...]] = (
            [*refused(options.match).items()] if options.refused else [*supported(options.match)]
        )
    if not rows:
        kind = "refused" if options.refused else "supported"
        msg = f"Expected part of the name of a {kind} backbone, but got {options.match!r}. Leave it out to list all."
        raise ValueError(msg)
    table = Table(box=None, pad_edge=False)
    for name in ("name", "problem") if options.refused else BackboneFacts._fields:
        table.add_column(name, no_wrap=name != "tags", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    Console(highlight=False, width=max(Console().width, _TABLE_WIDTH)).print(table)
    return 0


def _compare(options: Namespace) -> int:
    from anomalib_clipad.compare.config import make_config
    from anomalib_clipad.compare.pipeline import compare

    arguments = {name: value for name, value in vars(options).items() if name not in {"config", "check"}}
    config = make_config(**arguments)
    if options.check and not config.expected:
        msg = "Expected the config to have expected figures to check, but got none. Add expected, or leave out --check."
        raise ValueError(msg)
    records = compare(config)
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        sys.stderr.write(f"Failed: {record.job}: {record.error}\n")
    sys.stdout.write(f"{len(records) - len(failed)} of {len(records)} jobs done. Report: {config.output}/index.html\n")
    reached = not options.check or _check(Path(config.output), records)
    return 1 if failed or not reached else 0


def _check(output: Path, records: "list[Record]") -> bool:
    """Say which expected figures are not reached, and return whether all are."""
    from anomalib_clipad.compare.expected import read_expected
    from anomalib_clipad.compare.report.differences import differences
    from anomalib_clipad.compare.report.wording import difference_line

    found = differences(read_expected(output), records)
    missed = [each for each in found if not each.reached]
    for each in missed:
        sys.stderr.write(f"{difference_line(each)}\n")
    sys.stdout.write(f"{len(found) - len(missed)} of {len(found)} expected figures reached.\n")
    return not missed


def _report(options: Namespace) -> int:
    from anomalib_clipad.compare.report import write_report

    write_report(options.output)
    sys.stdout.write(f"Report: {options.output}/index.html\n")
    return 0


def _watch_parser(*, full: bool) -> ArgumentParser:
    parser = ArgumentParser(description="Score images as they arrive, and keep tables and a page of them.")
    parser.add_argument("folder", nargs="?", help="folder that fills up; those in it too")
    parser.add_argument("--input", help="instead of a folder, a video file, a camera's number or an address (rtsp://…)")
    parser.add_argument("--every", type=int, default=1, help="of a video, score each frame whose number this divides")
    parser.add_argument("--output", type=Path, required=True, help="folder of the tables, the page, and what is done")
    if full:
        from anomalib_clipad import SDP, SDPPlus

        parser.add_subclass_arguments((SDP, SDPPlus), "model", required=True, help="anomalib_clipad.SDP or SDPPlus")
    parser.add_argument("--ckpt_path", help="checkpoint of the model")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, …; auto: a GPU where there is one")
    parser.add_argument("--batch_size", type=int, default=8, help="images scored at once")
    parser.add_argument("--settle", type=float, default=1.0, help="seconds after whose quiet a file is complete")
    parser.add_argument("--refresh", type=float, default=30.0, help="least seconds between two pages")
    parser.add_argument("--shown", type=int, default=2000, help="images on the page, the newest ones")
    parser.add_argument("--once", action="store_true", help="score what is there, and end")
    parser.add_argument("--poll", action="store_true", help="look at all files each second: for network drives")
    parser.add_argument("--command", help="run this for each anomalous image, as in 'notify.sh {path} {score}'")
    parser.add_argument("--post", help="send the row of each anomalous image to this address, as JSON")
    return parser


def _watch(given: list[str], options: Namespace) -> int:
    import torch

    from anomalib_clipad.scale.model_spec import ModelSpec
    from anomalib_clipad.scale.watch import WatchOptions, watch

    arguments = options.as_dict()
    device, ckpt_path, _ = (arguments.pop(name) for name in ("device", "ckpt_path", "model"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # Without defaults: a checkpoint keeps the arguments that nobody gives anew.
    told = _watch_parser(full=True).parse_args(given[given.index("watch") + 1 :], defaults=False).as_dict()["model"]
    spec = ModelSpec(told["class_path"], told.get("init_args", {}), ckpt_path, device)
    try:
        return watch(WatchOptions(spec=spec, **arguments))
    except FileNotFoundError:
        raise
    except OSError as error:
        # Not a wrong argument: what is done is kept.
        sys.stderr.write(f"anomalib-clipad watch: {error}\n")
        return 1


if __name__ == "__main__":
    main()
