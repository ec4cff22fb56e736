# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``anomalib-clipad demo``."""

import ipaddress
import logging
import os
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from anomalib_clipad import SDP, SDPPlus
from anomalib_clipad.checkpoint.reader import name_model
from anomalib_clipad.demo.samples import draw_samples, list_samples
from anomalib_clipad.demo.workbench import Workbench

logger = logging.getLogger(__name__)

_WAITING = 16
"""Visitors' requests that wait; one is served at a time."""


def make_model(
    backbone: str | None, pretrained: str | None, heads: str | None, ckpt_path: str | None, prompts: str | None
) -> SDP | SDPPlus:
    """SDP, with heads SDP+, or what a checkpoint holds; arguments that are ``None`` have the model's defaults."""
    options = {"backbone": backbone, "pretrained": pretrained, "heads": heads, "prompts": prompts}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if ckpt_path is not None:
        made_of = SDP if name_model(ckpt_path) == "SDP" else SDPPlus
        return made_of.load(ckpt_path, **given)
    return SDP(**given) if heads is None else SDPPlus(**given)


def serve(
    backbone: str | None = None,
    pretrained: str | None = None,
    heads: str | None = None,
    ckpt_path: str | None = None,
    prompts: str | None = None,
    device: str = "cpu",
    host: str = "127.0.0.1",
    port: int = 7860,
    max_upload_mb: int = 20,
    max_megapixels: float = 40,
    samples: str | None = None,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        backbone: As of SDP; by default the paper's, or that of the checkpoint.
        pretrained: As of SDP.
        heads: File of heads, for SDP+; "embedded" for those that ship with clipad-tiny.
        ckpt_path: Checkpoint of SDP or SDP+.
        prompts: Prompt set or YAML file, as of SDP.
        device: Where the model runs, such as cuda.
        host: Address to listen on; 0.0.0.0 lets other machines in, without a password.
        port: Port to listen on.
        max_upload_mb: Largest file that is taken, in megabytes.
        max_megapixels: Largest image that is taken.
        samples: Folder or CSV file of images to choose from; by default some drawings.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        RuntimeError: If the port is taken, the device is not there, or weights cannot be downloaded.
        ValueError: If an argument is not valid.
    """
    if max_upload_mb < 1:
        msg = f"Expected max_upload_mb to be at least 1, but got {max_upload_mb}."
        raise ValueError(msg)
    _check_address(host, port)
    clipad = make_model(backbone, pretrained, heads, ckpt_path, prompts).to(torch.device(device)).eval()
    workbench = Workbench(clipad, max_megapixels)
    with TemporaryDirectory(prefix="anomalib-clipad-demo-") as folder:
        # Gradio asks for news when it is imported, and leaves pictures behind unless they lie where all is deleted.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(folder, "uploads")))
        import gradio as gr

        from anomalib_clipad.demo.page import make_page

        chosen = draw_samples(Path(folder)) if samples is None else list_samples(samples)
        name = "SDP" if clipad.model.heads is None else "SDP+"
        page = make_page(workbench, chosen, f"{name} on {clipad.collaborators.backbone.name}")
        page.queue(max_size=_WAITING, default_concurrency_limit=1)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            allowed_paths=[sample.path for sample in chosen],
            max_file_size=f"{max_upload_mb}mb",
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )
        sys.stdout.write(f"Open {address} in a browser; Ctrl+C ends the demo.\n")
        sys.stdout.flush()
        page.block_thread()


def _check_address(host: str, port: int) -> None:
    """Refuse a port that is taken, and say who may come in."""
    if not 1 <= port <= 65535:
        msg = f"Expected port to be from 1 to 65535, but got {port}."
        raise ValueError(msg)
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        msg = f"Expected to listen on {host}:{port}, but got: {error.strerror}. Choose another --port or --host."
        raise RuntimeError(msg) from error
    if host != "localhost" and not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
        logger.warning("The demo has no password: whoever reaches %s can use it.", host)
