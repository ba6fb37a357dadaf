"""How agent and bridge log to stderr: a line for people, or a JSON object for programs."""

from __future__ import annotations

import json
import logging
import sys
import time
from enum import StrEnum


class LogFormat(StrEnum):
    """How a log message is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": self.formatTime(record, self.datefmt),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(said)


def log_to_stderr(shape: LogFormat, level: LogLevel) -> None:
    """Log our own messages of at least `level`, and the warnings of other libraries, with times in UTC."""
    text, dates = "%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"
    formatter = logging.Formatter(text, dates) if shape is LogFormat.TEXT else _Json(None, dates)
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    ours, least = logging.getLogger("conduit_oauth"), logging.getLevelNamesMapping()[level.upper()]
    # --verbose was there before, and asked for more.
    ours.setLevel(min(ours.level or least, least))
