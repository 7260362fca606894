"""The runtime directory, which somebody else removes."""

import contextlib
import shutil
from pathlib import Path


def remove(directory: Path) -> None:
    """Remove it, though what was there before may just be about to be restored."""
    while directory.exists():
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
            return
