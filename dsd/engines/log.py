"""The log of a run: one JSON object a line, of bounded size, without secrets."""

import json
import logging
import os
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from dsd.data.manifest import without_secrets

LOG = "log.jsonl"
_MAX_BYTES, _OLDER = 8 * 2**20, 2
_MAX_TEXT = 8_000


class JsonLog:
    """What `dsd` logs while a stage runs, and the stage's begin and end, as lines of `log.jsonl` in the run.

    When the file is full it becomes `log.jsonl.1`, and that `log.jsonl.2`: 24 MiB at most. The caller holds
    the run's lock, so that one process writes at a time. A run that is no folder of this machine has no log.

    Args:
        folder: the run's.
        stage: its name, which stands in every line.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self._folder, self._stage = folder, stage
        self._handler: RotatingFileHandler | None = None

    def __enter__(self) -> "JsonLog":
        if self._folder.is_dir():
            handler = _Handler(self._folder / LOG)
            handler.setFormatter(_Lines(self._stage))
            logging.getLogger("dsd").addHandler(handler)
            self._handler = handler
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handler is not None:
            logging.getLogger("dsd").removeHandler(self._handler)
            self._handler.close()
            self._handler = None

    def event(self, name: str, **facts: Any) -> None:
        """Write a line of one's own, whatever the level of the loggers."""
        if self._handler is not None:
            record = logging.LogRecord("dsd.stage", logging.INFO, __file__, 0, name, None, None)
            record.facts = facts
            self._handler.handle(record)


class _Handler(RotatingFileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_MAX_BYTES, backupCount=_OLDER, encoding="utf-8", delay=True)
        self._broken = False

    def handleError(self, record: logging.LogRecord) -> None:
        """A disk that takes no log may take rows: told once."""
        self._tell()

    def close(self) -> None:
        """What could not be written is tried again here, and may fail again."""
        try:
            super().close()
        except OSError:
            self._tell()

    def _tell(self) -> None:
        if not self._broken:
            self._broken = True
            logging.lastResort and logging.lastResort.handle(
                logging.LogRecord(
                    __name__, logging.WARNING, __file__, 0, "%s cannot be written", (self.baseFilename,), None
                )
            )


class _Lines(logging.Formatter):
    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "stage": self._stage,
            "logger": record.name,
            "pid": os.getpid(),
            "message": record.getMessage()[:_MAX_TEXT],
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-_MAX_TEXT:]
        return json.dumps(without_secrets(line), default=str)
