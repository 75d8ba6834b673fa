"""Answers that were paid for, kept in one SQLite file."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from dsd.llm.records import Request

_LOCK_S = 60.0
"""How long another process may hold the file."""


class RequestCache:
    """Valid answers by the key of their request. A killed process loses none that `put` returned for; several
    processes may share the file.

    Args:
        path: the file, which is created with its folder.

    Raises:
        ValueError: if there is a file that is no such cache.
        TimeoutError: if another process holds it for too long.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # Used from the loop's thread alone, but made and closed by the user's.
        self._connection = sqlite3.connect(
            path, timeout=_LOCK_S, isolation_level=None, check_same_thread=False
        )
        self._connection.text_factory = bytes  # what is no UTF-8 any more is told here, not by SQLite
        try:
            # Write-ahead: a commit is one append, which outlives the process without waiting for the disk.
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, batch_id TEXT NOT NULL)"
            )
            for columns in ("key, answer FROM answers", "name, batch_id FROM batches"):
                self._connection.execute(f"SELECT {columns} LIMIT 0")
        except sqlite3.DatabaseError as error:
            self._connection.close()
            if "locked" in str(error):
                raise TimeoutError(
                    f"{path} has been held by another process for {_LOCK_S:g} s. Wait until that has ended, "
                    "or name another file."
                ) from error
            raise ValueError(
                f"{path} is no cache of answers, or it is damaged ({error}). Delete it, or name another file."
            ) from error

    def get(self, request: Request, model: str) -> dict[str, Any] | None:
        """What was put for an equal request; None if nothing was, or it is damaged.

        Raises:
            ValueError: if the file is damaged.
        """
        row = self._row("SELECT answer FROM answers WHERE key = ?", request.key(model))
        if row is None:
            return None
        try:
            found = json.loads(row[0])
        except (ValueError, TypeError, RecursionError):
            return None
        whole = isinstance(found, dict) and all(isinstance(found.get(x), str) for x in ("text", "model"))
        return found if whole else None

    def put(self, request: Request, model: str, answer: dict[str, Any]) -> None:
        """Keep an answer; an earlier one to an equal request is replaced."""
        self._connection.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?)", (request.key(model), json.dumps(answer))
        )

    def batch(self, name: str) -> str | None:
        """The provider's id of a batch that was sent and not fetched yet.

        Raises:
            ValueError: if the file is damaged.
        """
        row = self._row("SELECT batch_id FROM batches WHERE name = ?", name)
        if row is None:
            return None
        try:
            return str(row[0], "utf-8")
        except (TypeError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error

    def note_batch(self, name: str, batch_id: str | None) -> None:
        """A batch was sent; None: it was fetched."""
        if batch_id is None:
            self._connection.execute("DELETE FROM batches WHERE name = ?", (name,))
        else:
            self._connection.execute("INSERT OR REPLACE INTO batches VALUES (?, ?)", (name, batch_id))

    def __len__(self) -> int:
        count: int = self._connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        return count

    def _row(self, query: str, key: str) -> Any:
        try:
            return self._connection.execute(query, (key,)).fetchone()
        except sqlite3.OperationalError:  # somebody else's lock, a full disk
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(
            f"The cache of answers {self._path} is damaged ({error}). Delete it, or name another file."
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
