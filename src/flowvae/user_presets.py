"""Presets in the user's own Python modules."""

import importlib
import sys
from pathlib import Path

from flowvae.config import Config
from flowvae.errors import UserError
from flowvae.models.registry import preset


def named_preset(name: str) -> Config:
    """Return the preset ``name``, or for MODULE:NAME the `Config` NAME of a Python module.

    Modules in the working directory are found as well. Importing a module runs its code, so names come from
    the user's command line only, never from a run.

    Raises:
        UserError: if there is no such preset, or the module cannot be imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return preset(name)
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever code of the user's raises
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{module_name} cannot be imported ({why}); name an importable module") from None
    finally:
        sys.path.pop(0)
    found = getattr(module, attribute, None)
    if not isinstance(found, Config):
        raise UserError(f"{module_name} has no Config {attribute!r}; name one as MODULE:NAME")
    return found
