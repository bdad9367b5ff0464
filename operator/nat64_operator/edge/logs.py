"""The operator's log: its level, and lines as text or as JSON."""

from __future__ import annotations

import logging
import sys

from nat64_dataplane.log_format import FORMATS, JsonFormatter

LEVELS = ("debug", "info", "warning", "error")


def set_up(level: str, form: str) -> int:
    """Log to standard error. Returns the level as a number. Raises ValueError."""
    if level not in LEVELS:
        raise ValueError(f"--log-level {level!r}: there are {', '.join(LEVELS)}")
    if form not in FORMATS:
        raise ValueError(f"--log-format {form!r}: there are {', '.join(FORMATS)}")
    handler = logging.StreamHandler(sys.stderr)
    text = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(text))
    number: int = getattr(logging, level.upper())
    logging.basicConfig(level=number, handlers=[handler])
    return number
