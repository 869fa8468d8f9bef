"""Logs go to stderr, as lines for people or as JSON; stdout is for answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping


def _nothing() -> Mapping[str, str]:
    return {}


def configure(
    process: str, *, json_output: bool, context: Callable[[], Mapping[str, str]] = _nothing
) -> None:
    """``process`` says who speaks: serve, router or worker; ``context`` is asked for each line what
    it is about, such as a request's id."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter(process, context)
        if json_output
        else logging.Formatter(f"%(asctime)s %(levelname)-7s {process}  %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _JsonFormatter(logging.Formatter):
    """A record's ``fields`` become entries of their own."""

    def __init__(self, process: str, context: Callable[[], Mapping[str, str]]) -> None:
        super().__init__()
        self._process = process
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **self._context(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
