"""Log lines as JSON, for collectors that index them: the same form from all programs."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any, TextIO

FORMATS = ("text", "json")
VARIABLE = "NAT64_LOG_FORMAT"


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


def set_up(stream: TextIO, text: str) -> None:
    """Log to a stream from level info on: as the environment says, in JSON or in the given format.
    Raises ValueError for another word there.
    """
    form = os.environ.get(VARIABLE) or "text"
    if form not in FORMATS:
        raise ValueError(f"{VARIABLE} {form!r}: there are {', '.join(FORMATS)}")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(text))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
