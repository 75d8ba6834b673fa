"""What all plug-ins share that ask a language model, or might: an account, kept answers, an end."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from dsd.llm.records import Stopped, Usage
from dsd.registry import Recorded

if TYPE_CHECKING:
    from dsd.llm.door import LLM

Item = TypeVar("Item")
One = TypeVar("One")
Made = TypeVar("Made")


@runtime_checkable
class Spending(Protocol):
    """What has been spent so far, live; `dsd.llm.Ledger` is one."""

    @property
    def usage(self) -> Usage:
        """All calls, tokens and dollars up to now."""


class Asking(Recorded, Generic[Item]):
    """A plug-in that may ask somebody who is paid.

    One that asks a model opens its door by `_ask_by`; the rest follows. One that asks in another way sets
    `ledger`, and overrides what it needs. One that asks nobody sets `free`.

    Attributes:
        free: whether it asks nobody who is paid, so that what names no cost has cost nothing.
        fingerprint: a hash of what its results depend on beside its arguments, such as texts in files; it is
            recorded with them.
        llm: the door to the model that it asks; None if it asks none.
        ledger: what it has spent, for the progress bar; None if it keeps no account.
    """

    free: bool = False
    fingerprint: str = ""
    llm: "LLM | None" = None
    ledger: Spending | None = None
    _running: "set[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]]"

    def estimate(self, item: Item, /) -> Usage | None:
        """What one result would take, without asking anybody who is paid; None if that is unknown."""
        return Usage() if self.free else None

    def keep_answers(self, path: Path) -> None:
        """Be given a file for the answers of paid models, so that none is asked for twice. An option `cache`
        that names another file goes before.
        """
        if self.llm is not None:
            self.llm.keep_answers(path)

    def cancel(self) -> None:
        """End what is being asked in other threads; nothing more is paid for. Called when the work is
        stopped.
        """
        for loop, task in list(getattr(self, "_running", ())):
            loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Let go of connections and files. Called at the end by whoever made the plug-in."""
        if self.llm is not None:
            self.llm.close()

    def _ask_by(self, model: str, **options: Any) -> "LLM":
        """Open the door to a model.

        Args:
            model: as litellm names it, "provider/model".
            **options: of `dsd.llm.LLM`.

        Raises:
            TypeError: if an option is none of `LLM`'s.
            ValueError: if one is out of range, or the model's provider is unknown.
            ModuleNotFoundError: if litellm is not installed.
        """
        from dsd.llm.door import LLM

        parameters = inspect.signature(LLM.__init__).parameters.values()
        allowed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        if unknown := sorted(set(options) - set(allowed)):
            raise TypeError(
                f"{type(self).__name__} has no argument {unknown[0]!r}. Allowed, beside its own: "
                f"{', '.join(name for name in allowed if not name.startswith('api_'))}."
            )
        self.llm = LLM(model, **options)
        self.ledger = self.llm.ledger
        self._running = set()
        return self.llm

    def _all(
        self, function: Callable[[One], Awaitable[Made]], items: Sequence[One], at_once: int
    ) -> list[Made]:
        """What an asynchronous function makes of each item, in order, so many at once; `cancel` ends it.

        Errors of the function must be values: one that is raised ends all.
        """
        assert self.llm is not None, "the door was not opened"
        return self.llm.run(self._gathered(function, items, at_once)) if items else []

    async def _gathered(
        self, function: Callable[[One], Awaitable[Made]], items: Sequence[One], at_once: int
    ) -> list[Made]:
        task = asyncio.current_task()
        assert task is not None
        here = (asyncio.get_running_loop(), task)
        room = asyncio.Semaphore(at_once)  # for the encoded pictures of so many are in memory

        async def made(item: One) -> Made:
            async with room:
                return await function(item)

        self._running.add(here)
        try:
            return list(await asyncio.gather(*(made(item) for item in items)))
        finally:
            self._running.discard(here)


def all_or_stop(results: "Sequence[Made | Stopped]") -> list[Made]:
    """The results of a batch, if the money and the time lasted for all of it.

    Raises:
        Stopped: if there is one among them.
    """
    whole: list[Made] = []
    for result in results:
        if isinstance(result, Stopped):
            raise result
        whole.append(result)
    return whole
