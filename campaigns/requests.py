"""What is fuzzed of the explorer: values of its controls, and requests to its server."""

import asyncio
import atexit
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import gradio
import httpx
import numpy as np
from gradio.state_holder import SessionState
from PIL import Image

from campaigns.corpus import Reader
from campaigns.mutate import changed, hostile, mutated
from campaigns.run_files import complete
from flowvae.errors import UserError
from flowvae.explorer.explored import open_runs
from flowvae.explorer.guard import ASKED
from flowvae.explorer.page import build_app

HEADERS = (
    "host",
    "origin",
    "content-type",
    "content-length",
    "x-forwarded-host",
    "cookie",
    "transfer-encoding",
)
PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nPNG\r\n--x--\r\n'
PATHS = (
    "/",
    "/gradio_api/upload",
    "/gradio_api/queue/join",
    "/gradio_api/component_server",
    "/assets/x",
    "/config",
)


class Page:
    """The page of a run, as an application in this process."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for name, content in complete().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        with contextlib.chdir(folder):
            (run,) = open_runs([Path("run")])
        self.app = build_app([run])
        self.cache = Path(os.environ["GRADIO_TEMP_DIR"])
        self.blocks = self.app.routes[-1].app.get_blocks()
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(self.cache / "mine.png")

    def values(self, random: Random, listener: Any) -> list[Any]:
        """Draw values of the controls that a listener takes: those of the page, and others."""
        name = random.choice(("mine.png", "mine.png", "gone.png", "", "a\0b", "x" * 300, "\ud800"))
        file = {"path": f"{self.cache}/{name}", "meta": {"_type": "gradio.FileData"}}
        values = [getattr(control, "value", None) for control in listener.inputs]
        values = [None if callable(value) else value for value in values]
        for _ in range(random.choice((0, 1, 1, 2, 3))):
            if not values:
                break
            place = random.randrange(len(values))
            kind = random.random()
            if kind < 0.2:
                values[place] = random.choice((file, [file], [file, file, 3]))
            elif kind < 0.4 and isinstance(text := values[place], str):
                values[place] = mutated(text.encode(errors="replace"), random).decode("latin-1")
            else:
                values[place] = hostile(random)
        if random.random() < 0.05:
            values = changed(values, random)
        return values

    def listen(self, random: Random) -> None:
        """Send values to a listener, as the queue does."""
        listener = random.choice(list(self.blocks.fns.values()))
        values = self.values(random, listener)
        state = SessionState(self.blocks)

        async def ask() -> None:
            if not isinstance(values, list):
                raise UserError("the server asks for a list")
            answer = await self.blocks.process_api(listener, values, state=state)
            json.dumps(answer["data"], allow_nan=False)

        try:
            asyncio.run(ask())
        except gradio.Error as error:
            if error.print_exception:
                raise
            raise UserError(error.message) from None

    def request(self, random: Random) -> None:
        """Send a request to the server, through what stands in front of gradio."""
        method = random.choice((*ASKED, "POST", "POST", "PUT", "OPTIONS"))
        path = random.choice(PATHS)
        if random.random() < 0.2:
            path = "/" + mutated(path.encode(), random).decode("latin-1")
        headers = {"content-type": "application/json", "host": "127.0.0.1"}
        if random.random() < 0.3:
            headers[random.choice(HEADERS)] = random.choice(
                ("127.0.0.1:7860", "", "*", "null", "-1", "a" * 9999)
            )
        body: Any = random.choice(
            (
                {"data": [0, "", 3], "fn_index": random.randrange(60), "session_hash": "s"},
                {"data": {"run": "run", "code": [0.0] * 3}, "component_id": 1, "fn_name": "decode_code"},
            )
        )
        for _ in range(random.choice((0, 1, 2))):
            body = changed(body, random)
        content = json.dumps(body).encode()
        if random.random() < 0.2:
            content = mutated(content, random)
        if path.endswith("upload") and random.random() < 0.8:
            headers["content-type"] = "multipart/form-data; boundary=x"
            content = mutated(PART, random) if random.random() < 0.8 else PART

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, headers=headers, content=content)

        try:
            answer = asyncio.run(ask())
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError) as error:
            raise UserError(f"the request cannot be made: {type(error).__name__}") from None
        if answer.status_code >= 400:
            raise UserError(f"status {answer.status_code}")


def readers() -> Iterator[Reader]:
    """The readers of values and of requests."""
    page = Page()

    def of(act: Callable[[Random], None]) -> Callable[[Path, Random | None], None]:
        return lambda folder, random: act(random or Random(0))

    places = (str(page.cache),)
    yield Reader("controls", [], of(page.listen), share=0.3, places=places, quiet=False)
    yield Reader("requests", [], of(page.request), share=0.5, places=places, quiet=False)
