"""The page: one tab a view, on one local server, without a request to anywhere else."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowvae.errors import UserError
from flowvae.explorer.explored import Explored, open_runs

ADDRESS = "127.0.0.1"
STATIC = Path(__file__).parent / "static"


def serve(runs: Sequence[Path], port: int = 7860, data: str | None = None) -> None:
    """Serve the page for the runs, to this machine alone, until Ctrl-C.

    Args:
        runs: folders of runs with the same test images.
        port: of 127.0.0.1.
        data: a source of images in place of the runs' own.

    Raises:
        UserError: gradio is missing, the port is taken, or a run cannot be shown (see `open_runs`).
    """
    with _listener(port) as listener:
        app = build_app(open_runs(runs, data))
        import uvicorn

        print(f"http://{ADDRESS}:{port}  (Ctrl-C stops)", flush=True)
        # A page that is open in a browser holds a connection; stopping does not wait for it.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


def _listener(port: int) -> socket.socket:
    """A socket that listens before the page is ready, so that a browser waits for it."""
    if not 1 <= port <= 65535:
        raise UserError(f"port is {port}; give 1 to 65535")
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        raise UserError(f"port {port} cannot be had ({error.strerror}); choose another --port") from None


def build_app(explored: Sequence[Explored]) -> Any:
    """The page for opened runs, as a web application (ASGI)."""
    # gradio's statistics and look-ups of newer versions are requests to other machines.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError:
        raise UserError(
            "the explorer needs gradio; install it with: pip install 'flowvae[explore]'"
        ) from None
    from fastapi import FastAPI
    from gradio.themes import Default

    from flowvae.explorer.views import VIEWS

    # Uploads are copied into a folder of gradio's: they go an hour later, and when the server stops.
    with gradio.Blocks(
        title="flowvae explorer", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)
    ) as page:
        gradio.HTML(
            "<header class='fv-header'><strong>flowvae</strong> explorer</header>", apply_default_css=False
        )
        with gradio.Tabs():
            for title, view in VIEWS.items():
                if shown := view.runs(explored):
                    with gradio.Tab(title, id=title) as tab:
                        view.build(tab, shown)
    return gradio.mount_gradio_app(
        FastAPI(),
        page,
        path="/",
        server_name=ADDRESS,
        footer_links=[],
        max_file_size="20mb",
        ssr_mode=False,
        mcp_server=False,
        # The theme's own subdued colour has a contrast of 2.6 to white; this one has 4.8.
        theme=Default(primary_hue="indigo", neutral_hue="slate").set(body_text_color_subdued="*neutral_500"),
        css=(STATIC / "explorer.css").read_text(),
    )
