"""The program's main module in the processes that it has started: imported when it is needed.

multiprocessing's spawn runs it a second time under the name ``__mp_main__``, so that classes
defined in it can be found. Most programs need that not at all, and those without the usual guard
would start themselves over again.
"""

from __future__ import annotations

from multiprocessing import spawn
from typing import Any

_preparation: dict[str, Any] = {}
importing = False
"""Whether it is being imported, right now."""


def prepare(preparation: dict[str, Any]) -> None:
    """Make this interpreter like the program's, but for the main module."""
    _preparation.update(preparation)
    spawn.prepare({k: v for k, v in preparation.items() if not k.startswith("init_main")})


def ensure() -> None:
    """Import the main module, if that has not been done."""
    global importing  # noqa: PLW0603
    main = {k: v for k, v in _preparation.items() if k.startswith("init_main")}
    _preparation.clear()
    importing = True
    try:
        spawn.prepare(main)
    finally:
        importing = False
