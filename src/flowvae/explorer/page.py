"""The page: one tab per view, on a local server, without requests to other machines."""

import atexit
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowvae.errors import UserError
from flowvae.explorer.explored import Explored, open_runs
from flowvae.explorer.guard import LIMIT, Guard, host_name

ADDRESS = "127.0.0.1"
STATIC = Path(__file__).parent / "static"


def serve(runs: Sequence[Path], port: int = 7860, data: str | None = None, hosts: Sequence[str] = ()) -> None:
    """Serve the page for the runs, to this machine only, until Ctrl-C.

    Args:
        runs: directories of runs with the same test images.
        port: port on 127.0.0.1.
        data: source of images to use instead of the runs' own.
        hosts: names under which the page is reached, besides 127.0.0.1 and localhost.

    Raises:
        UserError: if gradio is missing, the port is taken, a host is not a name, or a run cannot be shown
            (see `open_runs`).
    """
    names = [host_name(host) for host in hosts]
    with _ended_in_order(), _listener(port) as listener:
        app = build_app(open_runs(runs, data), names)
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
        raise UserError(f"port {port} is not available ({error.strerror}); choose another --port") from None


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Make SIGTERM and a closing terminal end Python as an error does, so that exit handlers run."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    kinds = []
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [kind for kind in kinds if signal.getsignal(kind) is signal.SIG_DFL]  # nohup has SIGHUP ignored
    for kind in ours:
        signal.signal(kind, leave)
    try:
        yield
    finally:
        for kind in ours:
            signal.signal(kind, signal.SIG_DFL)


def _private_folder() -> Path:
    """An empty directory that only its owner can open; it is deleted when Python exits."""
    folder = Path(tempfile.mkdtemp(prefix="flowvae-explorer-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def build_app(explored: Sequence[Explored], hosts: Sequence[str] = ()) -> Any:
    """Build the page for opened runs as a web application (ASGI); ``hosts`` as in `serve`."""
    # gradio's statistics and checks for newer versions would be requests to other machines.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    cache = _private_folder()
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    try:
        import gradio
    except ImportError:
        raise UserError(
            "the explorer needs gradio; install it with: pip install 'flowvae[explore]'"
        ) from None
    from fastapi import FastAPI
    from gradio.themes import Default

    from flowvae.explorer.values import check_values
    from flowvae.explorer.views import VIEWS

    # Uploads are kept for an hour.
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
    check_values(page)
    app = FastAPI(openapi_url=None)
    app.add_middleware(Guard, cache=cache, hosts=hosts)
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=ADDRESS,
        footer_links=[],
        max_file_size=LIMIT,
        show_error=False,  # the text of an unexpected error may name files; it goes to the terminal
        ssr_mode=False,
        mcp_server=False,
        # The theme's own subdued colour has a contrast of 2.6 to white, its accent 4.47; these exceed 4.5.
        theme=Default(primary_hue="indigo", neutral_hue="slate").set(
            body_text_color_subdued="*neutral_500", color_accent="*primary_600"
        ),
        css=(STATIC / "explorer.css").read_text(),
    )
