# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The page: Gradio's components, and what happens between them."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from anomalib_clipad.clip.prompt_ensemble import DEFAULT_CLASS_NAME
from anomalib_clipad.demo.pictures import overlay, thumbnail
from anomalib_clipad.demo.samples import Sample
from anomalib_clipad.demo.workbench import MOST_REFERENCES, Scored, Workbench

_MOST_REGIONS = 10
_COLUMNS = ["left", "top", "width", "height", "area", "peak", "mean"]
_LINES = 6
_ENTER = "Enter scores again."
_HINT = "One a line, {} for the object. Shift+Enter scores again."

Update = tuple[str, Image.Image | None, list[list[float]]]


def make_page(workbench: Workbench, samples: Sequence[Sample], title: str) -> gr.Blocks:
    """The page over a workbench, with samples to choose from."""

    def score(
        path: str | None, class_name: str, normal: str, anomalous: str, references: list[str] | None, opacity: float
    ) -> Update:
        if path is None:
            return describe(None), None, []
        with_references = references or []
        try:
            scored = workbench.score(path, class_name, normal, anomalous, with_references)
        except (OSError, TypeError, ValueError) as error:
            gr.Warning(readable(error, [path, *with_references]), title="Not scored")
            return "### Not scored", None, []
        regions = (scored.prediction.regions or ())[:_MOST_REGIONS]
        rows = [[*region.box, region.area, round(region.peak, 3), round(region.mean, 3)] for region in regions]
        return describe(scored), overlay(path, scored.prediction, opacity, regions), rows

    def choose(event: gr.SelectData) -> tuple[str, str]:
        sample = samples[event.index]
        return sample.path, sample.class_name or DEFAULT_CLASS_NAME

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {title}\nDrop an image, or choose one, and say what it shows. The tower sees it once.")
        with gr.Row():
            with gr.Column():
                image: Any = gr.Image(label="Image", sources=["upload", "clipboard"], height=300, elem_id="image")
                # The file as it came: the package reads it, and says what is wrong with it. A class of one's own would
                # have Gradio write a stub beside this file.
                image.preprocess = path_of
                gallery = gr.Gallery(
                    [(thumbnail(sample.path), sample.class_name) for sample in samples],
                    label="Samples",
                    show_label=False,
                    columns=4,
                    height=250,
                    object_fit="cover",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="samples",
                )
                class_name = gr.Textbox(
                    DEFAULT_CLASS_NAME, label="Class name", info=_ENTER, max_length=200, elem_id="class-name"
                )
                with gr.Row():
                    normal, anomalous = (
                        gr.Textbox(
                            "\n".join(states),
                            label=f"{kind.capitalize()} states",
                            info=_HINT,
                            lines=_LINES,
                            max_lines=_LINES,
                            elem_id=kind,
                        )
                        for kind, states in zip(("normal", "anomalous"), workbench.states, strict=True)
                    )
                button = gr.Button("Score", variant="primary", elem_id="score")
            with gr.Column():
                summary = gr.Markdown(describe(None), elem_id="summary")
                picture = gr.Image(
                    label="Anomaly map",
                    interactive=False,
                    height=480,
                    format="png",
                    elem_id="map",
                    buttons=["download", "fullscreen"],
                )
                opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the map", elem_id="opacity")
                regions = gr.Dataframe(
                    headers=_COLUMNS,
                    label=f"Regions in pixels of the image, the {_MOST_REGIONS} largest",
                    interactive=False,
                    elem_id="regions",
                )
                with gr.Accordion("Good images to compare with", open=False, elem_id="few-shot"):
                    references = gr.File(
                        file_count="multiple",
                        file_types=["image"],
                        label=f"References, at most {MOST_REFERENCES}",
                        elem_id="references",
                    )
        gallery.select(choose, None, [image, class_name], api_visibility="private")
        gr.on(
            [
                *(image.change, references.change, button.click, opacity.release),
                *(class_name.submit, normal.submit, anomalous.submit),
            ],
            score,
            [image, class_name, normal, anomalous, references, opacity],
            [summary, picture, regions],
            show_progress="minimal",
            api_visibility="private",
        )
    return page


def path_of(upload: Any) -> str | None:
    """Path of a file that Gradio has found to be an upload or a sample."""
    return None if upload is None else upload.path


def describe(scored: Scored | None) -> str:
    """What the page says of a score."""
    if scored is None:
        return "### No image yet"
    prediction, count = scored.prediction, len(scored.prediction.regions or ())
    verdict = f"## {prediction.pred_score:.3f}" + ("" if prediction.label is None else f" · {prediction.label}")
    seeing = f"the tower saw the image in {scored.seeing:.2f} s" if scored.seeing else "the tower did not run"
    calibrated = (
        "Calibrated for this class."
        if prediction.calibrated
        else "**Not calibrated**: the label is rough, and colours span the range of this map."
    )
    return (
        f"{verdict}\n\n{calibrated} Rests on: {prediction.evidence}. Regions: {count}.\n\n"
        f"*{seeing[0].upper()}{seeing[1:]}; words and scores took {1000 * scored.scoring:.0f} ms.*"
    )


def readable(error: Exception, paths: Sequence[str]) -> str:
    """Text of an error for the page: names of files without the folders they lie in here, and no markup."""
    text = str(error)
    for path in paths:
        text = text.replace(path, Path(path).name)
    return html.escape(text, quote=False)
