"""The calls by which a process changes files, and what a disk keeps of them when the power fails."""

import _pyio  # type: ignore[import-not-found]  # of the standard library
import builtins
import fcntl
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
write = os.write  # as it was, for what `watch` calls
Kept = Literal["nothing", "names", "lengths", "contents"]
"""what a disk may have kept beside what was synced: only names, names and lengths, or contents"""
KEPT: tuple[Kept, ...] = ("nothing", "names", "lengths", "contents")


class Call(NamedTuple):
    """A call that changes files, with paths relative to the watched directory."""

    name: str
    """of the function in `os`"""
    path: str
    descriptor: int = -1
    data: bytes = b""
    """what is written"""
    place: int = 0
    """where it is written, or the length of what is left"""
    flags: int = 0
    target: str = ""
    """new name"""


def watch(
    folder: Path,
    before: Callable[[int, Call], None],
    after: Callable[[Call], None] = lambda call: None,
    ignored: str = "",
) -> None:
    """From now on, in this process, call ``before`` and ``after`` around each call that changes files in it.

    ``before`` gets the number of the call as well, from 1, and may raise an error in its place. What it does
    itself is not counted, nor are directories with the name ``ignored`` and what is in them. ``after`` also
    gets what opens a directory. Files are opened by Python's own implementation of `open`, which goes through
    `os`.
    """
    root = os.path.abspath(folder)
    opened: dict[int, str] = {}
    number, acting = 0, False

    def inside(path: Any, directory: int | None = None) -> str | None:
        if isinstance(path, int):
            return opened.get(path)
        above = os.getcwd() if directory is None else os.path.join(root, opened.get(directory, os.pardir))
        relative = os.path.relpath(os.path.join(above, os.fsdecode(path)), root)
        return None if relative.startswith("..") or ignored in relative.split(os.sep) else relative

    def counted(call: Call, do: Callable[[], Any]) -> Any:
        nonlocal number, acting
        if acting:
            return do()
        number += 1
        acting = True
        try:
            before(number, call)
        finally:
            acting = False
        result = do()
        if call.name == "open":
            call = call._replace(descriptor=result)
        elif call.name == "write":
            call = call._replace(data=call.data[:result])
        after(call)
        return result

    def wrap(name: str, wrapped: Callable[..., Any]) -> None:
        original = getattr(os, name)

        def function(*given: Any, **named: Any) -> Any:
            return wrapped(lambda: original(*given, **named), *given, **named)

        setattr(os, name, function)

    def open_descriptor(
        do: Callable[[], int], path: Any, flags: int, mode: int = 0, *, dir_fd: int | None = None
    ):
        place = inside(path, dir_fd)
        if place is None:
            return do()
        call = Call("open", place, flags=flags)
        if flags & WRITES:
            descriptor = counted(call, do)
        else:
            descriptor = do()
            after(call._replace(descriptor=descriptor))
        opened[descriptor] = place
        return descriptor

    def close(do: Callable[[], None], descriptor: int) -> None:
        opened.pop(descriptor, None)
        do()

    def written(do: Callable[[], int], descriptor: int, data: Any) -> int:
        if descriptor not in opened:
            return do()
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            at = os.fstat(descriptor).st_size
        return counted(Call("write", opened[descriptor], descriptor, bytes(data), at), do)

    def by_path(name: str) -> Callable[..., Any]:
        def function(do: Callable[[], Any], path: Any, *given: Any, dir_fd: int | None = None, **named: Any):
            place = inside(path, dir_fd)
            return do() if place is None else counted(Call(name, place), do)

        return function

    def by_descriptor(name: str) -> Callable[..., Any]:
        def function(do: Callable[[], Any], descriptor: int, length: int = 0) -> Any:
            if descriptor not in opened:
                return do()
            return counted(Call(name, opened[descriptor], descriptor, place=length), do)

        return function

    def moved(name: str) -> Callable[..., Any]:
        def function(do: Callable[[], Any], path: Any, target: Any) -> Any:
            places = inside(path), inside(target)
            if None in places:
                return do()
            return counted(Call(name, str(places[0]), target=str(places[1])), do)

        return function

    wrap("open", open_descriptor)
    wrap("close", close)
    wrap("write", written)
    for name in ("fsync", "ftruncate"):
        wrap(name, by_descriptor(name))
    for name in ("mkdir", "rmdir", "unlink", "remove", "utime"):
        wrap(name, by_path(name))
    for name in ("rename", "replace"):
        wrap(name, moved(name))

    original = builtins.open

    def open_file(file: Any, *given: Any, **named: Any) -> Any:
        outside = isinstance(file, int) or inside(file) is None
        return (original if outside else _pyio.open)(file, *given, **named)

    builtins.open = io.open = open_file


class Node:
    """A file or a directory: what a process sees of it, and what is synced."""

    def __init__(self, directory: bool) -> None:
        self.directory = directory
        self.content, self.synced = bytearray(), b""
        self.entries: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}

    def sync(self) -> None:
        self.synced, self.durable = bytes(self.content), dict(self.entries)


class Disk:
    """A disk after calls of `watch`, from a directory of which everything is synced."""

    def __init__(self, folder: Path, calls: Iterable[Call] = ()) -> None:
        self.root = _read(folder)
        self._opened: dict[int, Node] = {}
        for call in calls:
            self._apply(call)

    def write(self, folder: Path, kept: Kept) -> None:
        """Write what is left after a power failure into a new directory."""
        _write(self.root, folder, kept)

    def _at(self, path: str) -> tuple[Node, str]:
        """The directory of a path, and the name in it."""
        *above, name = path.split(os.sep)
        node = self.root
        for each in above:
            node = node.entries[each]
        return node, name

    def _apply(self, call: Call) -> None:
        parent, name = self._at(call.path)
        match call.name:
            case "open":
                node = self.root if name == "." else parent.entries.get(name)
                if node is None:
                    node = parent.entries[name] = Node(directory=False)
                if call.flags & os.O_TRUNC:
                    node.content.clear()
                self._opened[call.descriptor] = node
            case "write":
                content = self._opened[call.descriptor].content
                content.extend(bytes(max(0, call.place - len(content))))
                content[call.place : call.place + len(call.data)] = call.data
            case "ftruncate":
                del self._opened[call.descriptor].content[call.place :]
            case "fsync":
                self._opened[call.descriptor].sync()
            case "mkdir":
                parent.entries[name] = Node(directory=True)
            case "unlink" | "remove" | "rmdir":
                del parent.entries[name]
            case "rename" | "replace":
                other, new = self._at(call.target)
                other.entries[new] = parent.entries.pop(name)


def _read(path: Path) -> Node:
    node = Node(path.is_dir())
    if node.directory:
        node.entries = {each.name: _read(each) for each in path.iterdir()}
    else:
        node.content = bytearray(path.read_bytes())
    node.sync()
    return node


def _write(node: Node, path: Path, kept: Kept) -> None:
    if node.directory:
        path.mkdir()
        for name, each in (node.entries if kept in ("names", "lengths") else node.durable).items():
            _write(each, path / name, kept)
        return
    content = bytes(node.content) if kept == "contents" else node.synced
    if kept == "lengths":
        content = content[: len(node.content)].ljust(len(node.content), b"\0")
    path.write_bytes(content)
