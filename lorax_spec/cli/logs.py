"""Logs go to stderr, as lines for people or as JSON; stdout is for answers."""

from __future__ import annotations

import json
import logging


def configure(process: str, *, json_output: bool) -> None:
    """``process`` says who speaks: serve, router or worker."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter(process)
        if json_output
        else logging.Formatter(f"%(asctime)s %(levelname)-7s {process}  %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _JsonFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
