"""What a client may request: only what the page's own scripts request, and no files but its uploads.

gradio alone trusts a client further. It copies the files that a value names into its cache and serves them
from there; it checks their paths only after its own ``launch``, which a mounted page never calls. It also
answers under any ``Host``, so another site whose name resolves to 127.0.0.1 could query it (DNS rebinding).
"""

import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

from flowvae.errors import UserError

LIMIT = 20 * 2**20
"""Maximum size of a request's body, and so of an upload, in bytes"""

LONGEST = 200
"""characters of an error that are printed"""

FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
ASKED = {
    "GET": re.compile(
        r"/|/theme\.css|/favicon\.ico|/(assets|static)/(?!.*\.\.)[\w./-]+"
        r"|/gradio_api/(app_id|queue/data|heartbeat/\w+)"
    ),
    "HEAD": re.compile("/"),
    "POST": re.compile(rf"{UPLOAD}|/gradio_api/(queue/join|component_server/?)"),
}
"""Paths that the page's scripts request, by method; everything else that gradio serves is refused"""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class _RefusedError(Exception):
    """A refused request, with the HTTP status of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """ASGI middleware; the application never sees what it refuses.

    A request must be one of ASKED, under an allowed name, and not from a page of another origin. Its body is
    at most LIMIT bytes and, unless it is an upload, JSON in which no object names a file outside the cache.

    Args:
        app: the application of gradio.
        cache: directory that uploads are written to, absolute and without symbolic links.
        hosts: names under which the page is reached, besides 127.0.0.1 and localhost.
    """

    def __init__(self, app: Application, cache: Path, hosts: Iterable[str] = ()) -> None:
        self.app, self.cache = app, cache
        self.hosts = {"127.0.0.1", "localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # gradio uses none
            return await send({"type": "websocket.close"})
        if scope["type"] == "http":
            try:
                receive = await self._checked(scope, receive)
            except _RefusedError as refused:
                return await _answer(send, refused)
        try:
            await self.app(scope, receive, send)
        except (
            Exception
        ) as error:  # at what its scripts never send, gradio answers with status 500, and raises
            said = " ".join(str(error).split())[:LONGEST]
            print(f"flowvae: a request failed ({type(error).__name__}: {said})", file=sys.stderr)

    async def _checked(self, scope: Message, receive: Receive) -> Receive:
        """Check a request; return what the application receives it from."""
        origins = self._origins(scope)
        asked = ASKED.get(scope["method"])
        if asked is None or not asked.fullmatch(scope["path"]):
            raise _RefusedError(404, "this is not part of the page")
        if scope["method"] != "POST":
            return receive
        body = await _body(receive)
        if scope["path"] != UPLOAD:
            if not all(kind.startswith("application/json") for kind in _headers(scope, b"content-type")):
                raise _RefusedError(415, "the request is not JSON")
            try:
                # If a field occurs twice, both are checked, whichever of them gradio takes.
                json.loads(body, object_pairs_hook=partial(self._check, origins))
            except (ValueError, RecursionError):
                raise _RefusedError(400, "the JSON of the request cannot be read") from None
        return _replayed(body, receive)

    def _origins(self, scope: Message) -> set[str]:
        """The page's own origins; checks the names in the request's headers."""
        hosts = _headers(scope, b"host")
        if len(hosts) != 1 or re.sub(r":\d+$", "", hosts[0]) not in self.hosts:
            raise _RefusedError(403, "the page is not served under this name; add it with --host NAME")
        origins = {f"http://{hosts[0]}", f"https://{hosts[0]}"}
        if not origins.issuperset(_headers(scope, b"origin")):
            raise _RefusedError(403, "the request comes from another page")
        return origins

    def _check(self, origins: set[str], fields: list[tuple[str, object]]) -> None:
        """Check one object of a body, at any depth: gradio names files in ``path`` and ``url``."""
        for name, value in fields:
            if (name == "path" and not self._is_upload(value)) or (
                name == "url" and not self._is_address_of_upload(value, origins)
            ):
                raise _RefusedError(403, "a value names a file that was not uploaded")

    def _is_upload(self, path: object) -> bool:
        # By the text of the path alone: looking the file up would reveal whether it exists.
        return (
            isinstance(path, str)
            and PurePath(path).is_relative_to(self.cache)
            and ".." not in PurePath(path).parts
        )

    def _is_address_of_upload(self, address: object, origins: set[str]) -> bool:
        """Whether it is the address of an upload, or missing."""
        if not isinstance(address, str):
            return address is None
        origin, _, path = unquote(address).partition(FILE)
        return origin in {"", *origins} and self._is_upload(path)


def host_name(text: str) -> str:
    """Check a name for ``--host`` and return it unchanged.

    Raises:
        UserError: if it is not just a host name.

    >>> host_name("models.example.org")
    'models.example.org'
    """
    if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]", text):
        raise UserError(f"host is {text!r}; give a name without scheme, port or path: models.example.org")
    return text


def _headers(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for key, value in scope["headers"] if key == name]


async def _body(receive: Receive) -> bytes:
    """Read the body; all of it even if it is too large, because a client that is sending hears no answer."""
    body, size, more = bytearray(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _RefusedError(400, "the request ended too early")
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= LIMIT:
            body += part
    if size > LIMIT:
        raise _RefusedError(413, f"the request has more than {LIMIT / 2**20:g} megabytes")
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _answer(send: Send, refused: _RefusedError) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    # In the format of gradio's own refusals, which the page shows.
    await send({"type": "http.response.body", "body": json.dumps({"detail": str(refused)}).encode()})
