"""No client of the explorer's page gets at a file of the user, and no other site at the page."""

import asyncio
import io
import itertools
import json
import math
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from command_line import flowvae, is_refusal
from PIL import Image

from flowvae.explorer.guard import LIMIT, Guard

httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio")

NAME = "models.example.org"
SERVE = f"""
import json, os, pathlib, sys
from flowvae.explorer import page

build = page.build_app

def build_app(*arguments):
    app = build(*arguments)
    routes, found = list(app.routes), []
    for route in routes:
        for name in ("app", "original_router"):  # of what is mounted, and of what FastAPI includes
            routes.extend(getattr(getattr(route, name, None), "routes", []))
        found += [[method, route.path] for method in getattr(route, "methods", None) or []]
    config = app.routes[-1].app.get_blocks().get_config_file()
    told = {{"routes": found, "cache": os.environ["GRADIO_TEMP_DIR"]}}
    told |= {{key: config[key] for key in ("components", "dependencies")}}
    pathlib.Path("told.json").write_text(json.dumps(told, default=str))
    return app

page.build_app = build_app
page.serve([pathlib.Path(sys.argv[1])], int(sys.argv[2]), hosts=["{NAME}"])
"""
# What the page's scripts ask for; of whatever else gradio serves, now or later, nothing is answered.
ANSWERED = {
    ("HEAD", "/"),
    *(("GET", path) for path in ("/", "/theme.css", "/favicon.ico")),
    *(("GET", f"/{folder}/{{path:path}}") for folder in ("assets", "static")),
    *(("GET", f"/gradio_api/{path}") for path in ("app_id", "queue/data", "heartbeat/{session_hash}")),
    *(("POST", f"/gradio_api/{path}") for path in ("upload", "queue/join", "component_server")),
    ("POST", "/gradio_api/component_server/"),
}
SCHEMAS = ("/docs", "/redoc", "/openapi.json", "/config", "/gradio_api/info", "/gradio_api/openapi.json")


class Page(NamedTuple):
    client: Any
    told: dict[str, Any]
    """Of gradio: its routes, components, dependencies and cache."""
    cache: Path
    secret: Path
    """An image of the user's that nobody uploaded."""


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> Iterator[Page]:
    """The page as the command serves it, in another process; it leaves nothing behind."""
    folder = tmp_path_factory.mktemp("served")
    secret = folder / "secret.png"
    secret.write_bytes(picture(seed=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "-c", SERVE, str(finished / "flow"), str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        end = time.monotonic() + 120
        while "Ctrl-C" not in (folder / "log.txt").read_text():
            assert server.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        told = json.loads((folder / "told.json").read_text())
        cache = Path(told["cache"])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield Page(client, told, cache, secret)
        copies = [path for path in cache.rglob("*") if path.is_file() and holds(path, secret)]
        assert not copies, "a file that nobody uploaded"
    finally:
        server.terminate()
        server.wait()
    assert not cache.exists()


def holds(path: Path, secret: Path) -> bool:
    return path.read_bytes() == secret.read_bytes()


def picture(seed: int) -> bytes:
    """A PNG of noise."""
    written = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def uploaded(page: Page, content: bytes, name: str = "mine.png") -> dict[str, Any]:
    """A file as the page's script names it afterwards."""
    (path,) = page.client.post("/gradio_api/upload", files={"files": (name, content)}).json()
    address = f"{page.client.base_url}/gradio_api/file={path}".replace("//gradio_api", "/gradio_api")
    return {"path": path, "url": address, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def join(page: Page, **fields: Any) -> Any:
    return page.client.post("/gradio_api/queue/join", json={"session_hash": "s", **fields})


def finished_call(page: Page, number: int, data: list[Any]) -> dict[str, Any]:
    """What a listener answers, as the page's script asks it."""
    asked = json.dumps({"session_hash": "s", "fn_index": number, "data": data})  # which may have NaN
    headers = {"content-type": "application/json"}
    assert page.client.post("/gradio_api/queue/join", content=asked, headers=headers).status_code == 200
    with page.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "s"}) as answer:
        for line in answer.iter_lines():
            message = json.loads(line.removeprefix("data: ") or "{}")
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


def at_once(check: Callable[..., None], *cases: Iterable[Any]) -> None:
    """Check cases side by side: most of the time of a request is waiting."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(check, *cases))  # raises what a check raises


def reader(page: Page) -> int:
    """The first listener that takes an upload."""
    listeners = page.told["dependencies"]
    return next(each["id"] for each in listeners if "upload" in dict(each["targets"]).values())


def hostile(page: Page) -> dict[str, Any]:
    """Values that name the user's file, or another address, each in its way."""
    secret, kind = str(page.secret), {"meta": {"_type": "gradio.FileData"}}
    mine = {"path": f"{page.cache}/mine.png", **kind}
    return {
        "a file": {"path": secret, **kind},
        "a file without its kind": {"path": secret},
        "nested": [{"value": [[{"deep": {"path": secret, **kind}}]]}],
        "beside an upload": [mine, {"path": secret, **kind}],
        "out of the cache": {"path": f"{page.cache}/../..{secret}", **kind},
        "a neighbour of the cache": {"path": f"{page.cache}-other", **kind},
        "relative": {"path": page.secret.name, **kind},
        "from elsewhere": {"path": "http://127.0.0.1:9/x.png", **kind},
        "no text": {"path": {"path": secret}, **kind},
        "nothing": {"path": None, **kind},
        "an address": {"url": f"file://{secret}", **kind},
        "an address of the page": {**mine, "url": f"{page.client.base_url}gradio_api/file={secret}"},
        "an escaped address": {**mine, "url": f"/gradio_api/file={page.cache}/%2e%2e/%2E%2e{secret}"},
        "an upload elsewhere": {**mine, "url": f"http://other.example/gradio_api/file={page.cache}/mine.png"},
        "a stream": {"path": secret, "is_stream": True, **kind},
    }


def test_a_value_names_no_file_in_any_place_of_a_listener_and_in_the_last_of_any(page):
    file = hostile(page)["a file"]
    sizes = {each["id"]: len(each["inputs"]) for each in page.told["dependencies"]}
    assert len(sizes) > 30
    largest = max(sizes, key=lambda number: sizes[number])
    last = [(number, size - 1) for number, size in sizes.items() if size]

    def check(number: int, place: int) -> None:
        data = [file if place == index else None for index in range(sizes[number])]
        answer = join(page, fn_index=number, data=data)
        assert answer.status_code == 403, (number, place)
        assert str(page.secret) not in answer.text

    at_once(check, *zip(*last, *((largest, place) for place in range(sizes[largest])), strict=True))


def test_a_value_names_no_file_in_any_form(page):
    for name, value in hostile(page).items():
        for fields in ({"data": [value]}, {"data": [], "event_data": value}, {"data": [], "more": value}):
            assert join(page, fn_index=reader(page), **fields).status_code == 403, name
        fields = {"component_id": 1, "fn_name": "decode_code", "session_hash": "s", "data": value}
        for path in ("/gradio_api/component_server", "/gradio_api/component_server/"):
            assert page.client.post(path, json=fields).status_code == 403, name


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_field_that_is_there_twice_is_checked_twice(page, place):
    paths = [f"{page.cache}/mine.png", str(page.secret)]
    one, other = paths if place == "second" else reversed(paths)
    text = f'{{"data": [{{"path": "{one}", "path": "{other}"}}], "fn_index": 0, "session_hash": "s"}}'
    headers = {"content-type": "application/json"}
    assert page.client.post("/gradio_api/queue/join", content=text, headers=headers).status_code == 403


def test_what_is_no_json_is_not_passed_on(page):
    for path in ("/gradio_api/queue/join", "/gradio_api/component_server/"):
        for text in ("", "{", "[" * 100_000, '{"data": ' + "9" * 10_000 + "}"):
            answer = page.client.post(path, content=text, headers={"content-type": "application/json"})
            assert answer.status_code == 400
        assert page.client.post(path, content="{}", headers={"content-type": "text/plain"}).status_code == 415
        assert page.client.post(path, files={"data": ("x.png", b"x")}).status_code == 415


def filled(path: str, value: str) -> str:
    return re.sub(r"\{[^}]*\}", lambda _: value, path)


def test_of_all_routes_only_those_of_the_page_are_answered(page):
    routes = {(method, path) for method, path in page.told["routes"]}
    assert len(routes) > 60
    answered = set()

    def ask(route: tuple[str, str], value: str) -> None:
        method, path = route
        with page.client.stream(method, filled(path, value)) as answer:
            # gradio's own 404 is an answer too; of HEAD there is nothing to tell them apart by.
            if answer.status_code != 404 or (method != "HEAD" and b"not part of" not in answer.read()):
                answered.add(route)
            if not answer.headers["content-type"].startswith("text/event-stream"):
                assert page.secret.read_bytes() not in answer.read()
                assert str(page.secret) not in answer.text

    at_once(ask, *zip(*itertools.product(routes, ("x", str(page.secret))), strict=True))
    assert answered == ANSWERED & routes
    assert answered >= {("GET", "/"), ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join")}


def test_the_schemas_and_the_files_are_off(page):
    mine = uploaded(page, picture(seed=2))
    paths = (page.secret, mine["path"], f"{page.cache}/../../etc/passwd", "file:///etc/passwd")
    files = [f"/gradio_api/{name}{path}" for name in ("file=", "file/", "stream/") for path in paths]
    others = ("/gradio_api/proxy=http://127.0.0.1:9/", "//gradio_api/info", "/static/%2e%2e/config")
    for path in (*SCHEMAS, *files, *others):
        for method in ("GET", "POST", "OPTIONS"):
            assert page.client.request(method, path).status_code == 404, (method, path)


def test_other_names_and_other_pages_are_refused_everywhere(page):
    port = page.client.base_url.port
    names = ("other.example", f"127.0.0.1.other.example:{port}", "")
    origins = ("https://other.example", "null", f"http://127.0.0.1:{port + 1}")
    foreign = [*({"host": name} for name in names), *({"origin": origin} for origin in origins)]
    routes = [(method, filled(path, "x")) for method, path in page.told["routes"]]

    def ask(route: tuple[str, str], headers: dict[str, str]) -> None:
        answer = page.client.request(*route, headers=headers)
        assert answer.status_code == 403, (route, headers)
        assert "access-control-allow-origin" not in answer.headers

    everywhere = itertools.product(routes, (foreign[0], foreign[-1]))
    at_once(ask, *zip(*everywhere, *((("GET", "/"), headers) for headers in foreign), strict=True))
    for headers in foreign:
        files = {"files": ("x.png", picture(seed=3))}
        assert page.client.post("/gradio_api/upload", files=files, headers=headers).status_code == 403


def test_the_page_answers_under_its_names(page):
    port = page.client.base_url.port
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost", NAME, f"{NAME.upper()}:443"):
        for scheme in ("http", "https"):
            headers = {"host": name, "origin": f"{scheme}://{name.lower()}"}
            assert "flowvae explorer" in page.client.get("/", headers=headers).text


@pytest.mark.parametrize("name", ["mine.png", "../../../mine.png", "..\\mine.png", "/etc/mine.png"])
def test_an_upload_stays_in_the_private_folder_and_is_read(page, name):
    assert page.cache.stat().st_mode & 0o777 == 0o700
    mine = uploaded(page, picture(seed=4), name)
    assert Path(mine["path"]).resolve().is_relative_to(page.cache)
    answer = finished_call(page, reader(page), [mine, ""])
    assert answer["success"], answer
    assert len(answer["output"]["data"][0]) == 88, "64 pixels in base64"


def test_the_image_of_an_upload_is_scored(page):
    text = finished_call(page, reader(page), [uploaded(page, picture(seed=5)), ""])["output"]["data"][0]
    listeners = {each["api_name"]: each["id"] for each in page.told["dependencies"]}
    answer = finished_call(page, listeners["measure"], [0, text, 10])
    assert "-log p(x|z)" in answer["output"]["data"][0], answer


def test_errors_name_no_file(page):
    mine = uploaded(page, b"no picture")
    answer = finished_call(page, reader(page), [mine, ""])
    assert "cannot be read as an image" in answer["output"]["error"]
    gone = {**mine, "path": f"{page.cache}/gone.png", "url": None}
    for file in (gone, str(page.secret), None, {**gone, "path": f"{page.cache}/\0.png"}):
        answer = finished_call(page, reader(page), [file, ""])
        assert not answer["success"]
        assert str(page.cache) not in json.dumps(answer)
        assert str(page.secret) not in json.dumps(answer)


@pytest.mark.parametrize(
    "values",
    [
        [[1], "", ""],
        [7, "", ""],
        [None, "", ""],
        [0, 3, ""],
        [0, {"a": [1]}, ""],
        [0, ""],
        [],
        [math.nan] * 3,
    ],
)
def test_values_that_a_control_cannot_have_are_refused_without_a_traceback(page, values):
    listeners = {each["api_name"]: each["id"] for each in page.told["dependencies"]}
    log = page.secret.parent / "log.txt"
    before = log.read_text()
    answer = finished_call(page, listeners["measure"], values)
    assert not answer["success"]
    assert answer["output"]["error"], answer
    assert log.read_text() == before, "nothing is printed"


def test_requests_that_gradio_fails_at_are_one_line(page):
    log = page.secret.parent / "log.txt"
    before = log.read_text()
    part = (
        b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nPNG\r\n--x--\r\n'  # without a file name
    )
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answers = [page.client.post("/gradio_api/upload", content=part, headers=kind)]
    for text in (
        '{"data": [NaN], "fn_index": "x"}',
        '{"data": {"run": 3}, "component_id": 1, "fn_name": "decode_code"}',
    ):
        for path in ("queue/join", "component_server"):
            headers = {"content-type": "application/json"}
            answers.append(page.client.post(f"/gradio_api/{path}", content=text, headers=headers))
    assert all(answer.status_code >= 400 for answer in answers)
    said = log.read_text().removeprefix(before).splitlines()
    assert said
    assert all(line.startswith("flowvae: a request failed (") for line in said), said


def test_large_requests_are_refused(page):
    def parts() -> Iterator[bytes]:  # without a content-length
        yield from (bytes(2**20) for _ in range(LIMIT // 2**20 + 2))

    answer = page.client.post("/gradio_api/upload", files={"files": ("x.png", bytes(LIMIT + 1))})
    assert (answer.status_code, "more than 20 megabytes" in answer.text) == (413, True)
    for path in ("upload", "queue/join", "component_server"):
        assert page.client.post(f"/gradio_api/{path}", content=parts()).status_code == 413


def test_a_web_socket_is_closed():
    async def never(*_: Any) -> Any:
        raise AssertionError("it is passed on")

    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(never, Path("/cache"))({"type": "websocket"}, never, send))
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize("host", ["http://models.example.org", "models.example.org:80", "a/b", "*", ""])
def test_a_host_is_a_name(workspace, host):
    is_refusal(flowvae("explore", "flow", "--host", host), f"host is {host!r}", "without scheme")
