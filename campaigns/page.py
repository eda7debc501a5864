"""The explorer's page under load: many clients at once, and for a long time."""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from campaigns import corpus  # noqa: F401  # which finds the tests
from campaigns.run_files import complete
from flowvae.explorer.images import to_text
from flowvae.runs import Run

CLIENTS, SECONDS = 50, 60.0
MINUTES = 10
STEADY = 3
"""clients of the long part"""
PATIENCE = 120.0
"""longest wait for an answer or for the page, in seconds"""


class Served(NamedTuple):
    """The page in another process."""

    address: str
    process: int
    images: list[str]
    """test images, as the page's pad holds them"""
    score: int
    """number of the listener that scores an image"""


@contextmanager
def served() -> Iterator[Served]:
    """Serve the page of a small run, as the command serves it."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        folder = Path(name)
        for file, content in complete().items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        command = [sys.executable, "-m", "flowvae", "explore", "run", "--port", str(port)]
        with (folder / "log.txt").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
        try:
            end = time.monotonic() + PATIENCE
            while "Ctrl-C" not in (folder / "log.txt").read_text():
                assert server.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < end, "the page is not served"
                time.sleep(0.1)
            os.chdir(folder)
            run = Run("run")
            images = run.dataset.test.images.float()
            address = f"http://127.0.0.1:{port}"
            text = httpx.get(address, timeout=PATIENCE).text
            config = json.JSONDecoder().raw_decode(text.split("window.gradio_config = ", 1)[1])[0]
            listeners = {each["api_name"]: each["id"] for each in config["dependencies"]}
            yield Served(address, server.pid, [to_text(image) for image in images], listeners["measure"])
            said = (folder / "log.txt").read_text()
            assert said.count("\n") == 1, said
        finally:
            server.terminate()
            server.wait()
            os.chdir(Path(__file__).parents[1])


async def asked(client: httpx.AsyncClient, page: Served, session: str, image: str) -> str:
    """Score an image as the page's script does; return the table of its numbers."""
    data = {"fn_index": page.score, "data": [0, image, ""], "session_hash": session}
    (await client.post("/gradio_api/queue/join", json=data)).raise_for_status()
    async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as answer:
        async for line in answer.aiter_lines():
            message = json.loads(line.removeprefix("data: ") or "{}")
            if message.get("msg") == "process_completed":
                assert message["success"], message
                return message["output"]["data"][0]
    raise ConnectionError("no answer")


async def load(page: Served, clients: int, seconds: float) -> dict[str, Any]:
    """Ask from so many clients at once, and compare every answer with that to one client alone."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=page.address, timeout=PATIENCE, limits=limits) as client:
        expected = [
            await asked(client, page, f"first{place}", image) for place, image in enumerate(page.images)
        ]
        assert len(set(expected)) == len(set(page.images))
        before, files = memory(page), open_files(page)
        times: list[float] = []
        found = {"lost": 0, "wrong": 0}
        end = time.monotonic() + seconds

        async def ask(number: int) -> None:
            place = number
            while time.monotonic() < end:
                place = (place + 1) % len(page.images)
                since = time.monotonic()
                try:
                    answer = await asked(client, page, f"client{number}", page.images[place])
                except (httpx.HTTPError, ConnectionError, AssertionError):
                    found["lost"] += 1
                    continue
                times.append(time.monotonic() - since)
                found["wrong"] += answer != expected[place]

        async def watch() -> None:
            while time.monotonic() < end:
                taken.append(memory(page))
                await asyncio.sleep(0.2)

        taken = [before]
        await asyncio.gather(*(ask(number) for number in range(clients)), watch())
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": len(times),
        **found,
        "median_seconds": round(statistics.median(times), 3) if times else None,
        "slowest_seconds": round(max(times), 3) if times else None,
        "memory_mebibytes": [round(before), round(max(taken))],
        "open_files": [files, open_files(page)],
    }


def memory(page: Served) -> float:
    """Return the resident memory of the page's process in MiB."""
    lines = Path(f"/proc/{page.process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def open_files(page: Served) -> int:
    return len(list(Path(f"/proc/{page.process}/fd").iterdir()))


def steady(page: Served, minutes: int) -> Iterator[dict[str, Any]]:
    """Ask from few clients, and say what the process takes after each minute."""
    for minute in range(1, minutes + 1):
        found = asyncio.run(load(page, STEADY, 60.0))
        row = {"minute": minute, "memory_mebibytes": round(memory(page)), "open_files": open_files(page)}
        yield {**row, "answers": found["answers"], "lost": found["lost"], "wrong": found["wrong"]}


def table(found: Mapping[str, Any]) -> str:
    """Return what was found, as Markdown."""
    many = found["many"]
    before, most = many["memory_mebibytes"]
    lines = [
        f"{many['clients']} clients for {many['seconds']:.0f} s: {many['answers']:,} answers, "
        f"{many['lost']} lost, {many['wrong']} wrong; the median took {many['median_seconds']} s, the "
        f"slowest {many['slowest_seconds']} s. "
        f"The process took {before} MiB before and at most {most} MiB.\n\n",
        "| minute | answers | lost | wrong | memory, MiB | open files |\n|---:|---:|---:|---:|---:|---:|\n",
    ]
    shown = [row for row in found["long"] if row["minute"] in (1, 5, 10)] or found["long"]
    for row in shown:
        lines.append(
            f"| {row['minute']} | {row['answers']:,} | {row['lost']} | {row['wrong']} "
            f"| {row['memory_mebibytes']} | {row['open_files']} |\n"
        )
    return "".join(lines)


def run(tries: int | None = None) -> dict[str, Any]:
    """Serve the page to many clients for a minute, then to few for ten minutes, or as many as tries."""
    with served() as page:
        many = asyncio.run(load(page, CLIENTS, SECONDS))
        return {"many": many, "long": list(steady(page, tries or MINUTES))}
