"""The backend's log: lines for people or JSON for programs, never a context's text.

Design decisions

* A line's facts travel beside its text, as ``extra={"facts": {...}}``: the text form ignores them,
  the JSON form writes each as a field of its own.
* An exception is logged by whoever knows whether its message may be shown; a traceback that gets
  here all the same keeps its frames in the JSON form and loses its message.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

from neural_condense_core.errors import type_and_frames


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = type_and_frames(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


def configure_logging(level: str, log_format: str) -> None:
    """Send the log to stderr.

    Parameters
    ----------
    level : of our own lines, ``"info"`` for example; libraries warn only
    log_format : ``"text"`` or ``"json"``
    """
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        text = "%(asctime)s %(levelname)s %(message)s"
        handler.setFormatter(logging.Formatter(text, datefmt="%H:%M:%S"))
    # What no line shows is not looked up for each: who logged it, and on which thread.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # documented under "Optimization"
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("neural_condense_core").setLevel(level.upper())
