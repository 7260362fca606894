"""Classes and functions by their names, as one process tells them to another: "module:qualname"."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from supervisor.spawn import main_module


def reference_to(what: Any) -> str:
    """Return the name of a class or function.

    Raises:
        ValueError: another process cannot import it, and why.
    """
    main_module.check_importable(what)
    return f"{what.__module__}:{what.__qualname__}"


def import_module(reference: str) -> None:
    """Import the module of what a name means, so that a fork finds it imported."""
    module = reference.partition(":")[0]
    if module in main_module.NAMES:
        main_module.ensure()
    importlib.import_module(module)


def load(reference: str) -> Any:
    """Return what a name means.

    Raises:
        ImportError, AttributeError: it is not there.
    """
    import_module(reference)
    module, _, path = reference.partition(":")
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = getattr(found, part)
    return found
