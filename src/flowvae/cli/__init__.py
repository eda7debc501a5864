"""The command line. Heavy imports are deferred until a command needs them, so that help is fast."""

import errno
import functools
import io
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import flowvae
from flowvae.cli.images import classify, compress, decode, decompress, encode, impute, score
from flowvae.cli.pictures import interpolate, reconstruct, sample
from flowvae.cli.runs import evaluate, explore, export, quality, table
from flowvae.cli.studies import demo, reproduce
from flowvae.cli.training import presets, train
from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.memory import keep_freed_memory, lacks_memory
from flowvae.options import given, parse

# The exit code by which a shell knows that a program was stopped with Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130
LONGEST_LINE = 1000
# Seconds in which the first process should have said what all found out.
PATIENCE = 30


def completion() -> None:
    """Print a script for bash and zsh that completes commands: eval "$(flowvae completion)"."""
    from flowvae.shell_completion import script

    print(script(COMMANDS), end="")


_ALL = (
    train,
    evaluate,
    score,
    classify,
    encode,
    decode,
    impute,
    compress,
    decompress,
    sample,
    quality,
    reconstruct,
    interpolate,
    explore,
    table,
    export,
    presets,
    demo,
    reproduce,
    completion,
)


COMMANDS: dict[str, Callable[..., None]] = {command.__name__: command for command in _ALL}


def main() -> None:
    """Entry point: a mistake of the user is one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # File names need not be valid text, and the encoding may lack their characters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(sys.argv[1:])
        if sys.stdout is not None:  # as it is where the caller closed it
            sys.stdout.flush()
    except UserError as error:
        _fail(str(error), alike=True)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has closed it
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(_file_trouble(error))
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        _fail("out of memory; choose a smaller model, or fewer images or samples at a time")
    except KeyboardInterrupt as stop:
        _fail("; ".join(["interrupted", *map(str, stop.args)]), INTERRUPTED, alike=True)


def _run(words: list[str]) -> None:
    if any("\0" in word for word in words):
        raise UserError("an argument contains a null character; remove it")
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(flowvae.__version__)
        return
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UserError(f"no command {quoted(name)}; {did_you_mean(name, COMMANDS)}")
    # Here and not in the package's functions, which leave the caller's process unchanged.
    keep_freed_memory()
    if name == "train":
        train(rest)
    else:
        command = COMMANDS[name]

        @functools.wraps(command)
        def bind(*arguments: Any, **options: Any) -> Callable[[], None]:
            return functools.partial(command, *arguments, **options)

        bound = parse(bind, rest, f"flowvae {name}")
        if "RANK" in os.environ and not _shares_images(name, rest):
            from flowvae.processes import work_alone

            work_alone()
        bound()


def _shares_images(name: str, words: list[str]) -> bool:
    """Return whether several processes share the images of the command; the first one runs all others."""
    return name in ("score", "classify", "encode", "impute") or (
        name == "evaluate" and given("--estimator", words) != "ais"
    )


def _help() -> str:
    lines = [
        "usage: flowvae COMMAND [options]",
        "",
        "Train, evaluate and explore deep generative models of images.",
        "",
        *(f"  {name:12} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()),
        "",
        "flowvae COMMAND --help lists the options of a command; flowvae --version prints the version.",
    ]
    return "\n".join(lines)


def _file_trouble(error: OSError) -> str:
    """Say what went wrong with a file, and what to do."""
    space = "free some disk space and run the command again"
    remedies = {
        errno.ENOSPC: space,
        errno.EDQUOT: space,
        errno.EIO: "check the disk, and run the command again",
        errno.ENOENT: "create the directory first, or choose another path",
    }
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}; {remedies.get(error.errno or 0, 'choose another path')}"


def _fail(message: str, code: int = 2, alike: bool = False) -> NoReturn:
    """End with a message; if it is ``alike`` in all processes of a machine, the first one prints it."""
    if alike and os.environ.get("LOCAL_RANK", "0") != "0":
        # The launcher ends all processes as soon as one has ended: the first one must have spoken.
        with suppress(KeyboardInterrupt):
            time.sleep(PATIENCE)
        sys.exit(code)
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:  # it quotes a long argument; the remedy is at the end
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"flowvae: {line}", file=sys.stderr)
    sys.exit(code)
