"""Presets in modules of the user's own."""

import importlib
import sys
from pathlib import Path

from flowvae.config import Config
from flowvae.errors import UserError
from flowvae.models.registry import preset


def named_preset(name: str) -> Config:
    """The experiment ``name``, or the one that MODULE:NAME names, a `Config` in a Python module.

    Modules are looked for in the working directory, too. Importing one runs its code: only what a user names
    comes here, and nothing that is read from a run.

    Raises:
        UserError: there is no such preset, or the module cannot be imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return preset(name)
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever code of the user's raises
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{module_name} cannot be imported ({why}); name a module of Python") from None
    finally:
        sys.path.pop(0)
    found = getattr(module, attribute, None)
    if not isinstance(found, Config):
        raise UserError(f"{module_name} has no Config {attribute!r}; name one as MODULE:NAME")
    return found
