"""The operator's log: its level, and lines as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


class JsonFormatter(logging.Formatter):
    """An object a line: time (RFC 3339), level, logger, message, and error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as JSON; a message of several lines stays one line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


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
