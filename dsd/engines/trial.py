"""Failures of a stage: held back until something succeeds, then recorded as they come."""

from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from dsd.data.rows import Failure
from dsd.data.table import Table
from dsd.data.writer import TableWriter

T = TypeVar("T")

MAX_FAILURES_AT_FIRST = 16


class Trial(Generic[T]):
    """Holds failures back until something succeeds: of a stage that never works, none is recorded.

    Args:
        stage: for the message.
        proven: whether the stage has succeeded before, so that failures are the rows' own.
    """

    def __init__(self, stage: str, *, proven: bool) -> None:
        self._stage, self._proven = stage, proven
        self._held: deque[T] = deque()
        self._why = ""

    def passed(self, result: T, why_failed: str | None) -> list[T]:
        """The results that can be written now that this one has come.

        Raises:
            RuntimeError: if it is the last of too many failures.
        """
        self._held.append(result)
        if why_failed is None:
            self._proven = True
        if self._proven:
            passed = list(self._held)
            self._held.clear()
            return passed
        self._why = why_failed or ""
        if len(self._held) >= MAX_FAILURES_AT_FIRST:
            self.finish()
        return []

    def finish(self) -> None:
        """Raise if nothing but failures came."""
        if self._held:
            raise RuntimeError(
                f"The first {len(self._held)} of {self._stage!r} all failed, at last with: {self._why} They "
                "are not recorded. Mend the cause and call the stage again."
            )


class Failures:
    """Records failures as they come; the table is begun with the first.

    Args:
        table: where to record them.
        made_from: the state of the earlier stage.
        stack: what closes the table.

    Attributes:
        known: the rows of the earlier stage that failed before.
        count: of all of them.
    """

    def __init__(self, table: Table[Failure], made_from: Mapping[str, Any], stack: ExitStack) -> None:
        self._table, self._made_from, self._stack = table, made_from, stack
        self._writer: TableWriter[Failure] | None = None
        self.known = table.keys() if table.exists else set()
        self.count = len(self.known)

    def add(self, failure: Failure) -> None:
        """Record one."""
        if self._writer is None:
            self._writer = self._stack.enter_context(TableWriter(self._table, {}, self._made_from))
        self._writer.add([failure])
        self.count += 1
