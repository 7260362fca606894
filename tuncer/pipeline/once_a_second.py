"""Failures in the log: at most one line a second, with the number of those in between."""

from __future__ import annotations

import logging
import time

from tuncer.pipeline import engine


class OnceASecond:
    """Logs failures of one kind."""

    def __init__(self, log: logging.Logger, level: int = logging.ERROR) -> None:
        self._log, self._level = log, level
        self._until = 0.0
        self._hidden = 0

    def tell(self, what: str, error: Exception | None = None) -> None:
        """Log a failure, or count it.

        Args:
            what: has failed.
            error: why: an OSError in a line, anything else with its traceback.
        """
        now = time.monotonic()
        if now < self._until:
            self._hidden += 1
            return
        more = f" ({self._hidden} more before)" if self._hidden else ""
        detail = ""
        if error is not None:
            detail = f": {error if isinstance(error, OSError) else engine.text_of(error)}"
        self._log.log(self._level, "%s%s%s", what, more, detail)
        self._until, self._hidden = now + 1.0, 0
