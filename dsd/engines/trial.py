"""Failures of a stage: held back until something succeeds, then recorded as they come."""

from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from dsd.data.ids import Ids
from dsd.data.rows import Failure
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.llm.records import OutOfService

T = TypeVar("T")

MAX_FAILURES_AT_FIRST = 16
MAX_OUTAGES = 16  # in a row
_SETTLED_AFTER = 2 * MAX_OUTAGES
"""So many results after an outage it was the row's own. More than `MAX_OUTAGES`, since of rows that are asked
at the same time a later one may still have got an answer when the service went away.
"""


class Trial(Generic[T]):
    """Holds failures back until something succeeds: of a stage that never works, none is recorded.

    Afterwards it holds those back that are a service's, not the row's own, and what comes behind them, until
    it is clear that the service has not gone away: of one that has, none is recorded either.

    Args:
        stage: for the message.
        proven: whether the stage has succeeded before, so that failures are the rows' own.
    """

    def __init__(self, stage: str, *, proven: bool) -> None:
        self._stage, self._proven = stage, proven
        self._held: deque[tuple[T, bool]] = deque()
        self._why, self._outages = "", 0

    def passed(self, result: T, why_failed: str | None, *, outage: bool = False) -> list[T]:
        """The results that can be written now that this one has come.

        Args:
            result: that one.
            why_failed: None if it did not.
            outage: whether it failed because a service did not answer.

        Raises:
            RuntimeError: if it is the last of too many failures.
            OutOfService: if it is the last of too many outages in a row.
        """
        self._held.append((result, outage))
        self._why = why_failed or ""
        self._proven |= why_failed is None
        self._outages = self._outages + 1 if outage else 0
        if not self._proven:
            return self.finish() if len(self._held) >= MAX_FAILURES_AT_FIRST else []
        if self._outages >= MAX_OUTAGES:
            raise OutOfService(
                f"The last {self._outages} of {self._stage!r} got no answer, at last with: {self._why} They "
                "are not recorded as failed."
            )
        passed = []
        while self._held and (not self._held[0][1] or len(self._held) > _SETTLED_AFTER):
            passed.append(self._held.popleft()[0])
        return passed

    def stop(self) -> list[T]:
        """What was held back behind outages, and without them, when the stage is stopped."""
        passed = [result for result, outage in self._held if self._proven and not outage]
        self._held.clear()
        return passed

    def finish(self) -> list[T]:
        """The results that were held back to the end, too few for an outage.

        Raises:
            RuntimeError: if nothing but failures came.
        """
        if self._held and not self._proven:
            raise RuntimeError(
                f"The first {len(self._held)} of {self._stage!r} all failed, at last with: {self._why} They "
                "are not recorded. Mend the cause and call the stage again."
            )
        passed = [result for result, _ in self._held]
        self._held.clear()
        return passed


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
        self.known = table.row_keys() if table.exists else Ids()
        self.count = len(self.known)

    def add(self, failure: Failure) -> None:
        """Record one."""
        if self._writer is None:
            self._writer = self._stack.enter_context(TableWriter(self._table, {}, self._made_from))
        self._writer.add([failure])
        self.count += 1
