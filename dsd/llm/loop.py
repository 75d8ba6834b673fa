"""One event loop in a thread of its own, for synchronous callers: connections outlive a call, and the loop of
a notebook does not matter. All of a process share it, for litellm has workers that belong to a loop.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""By process: a forked one inherits the loop, but not its thread."""


def submit(coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
    """Start it."""
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="dsd-llm", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


def result(future: "Future[T]") -> T:
    """Wait for it; an interrupted wait cancels it."""
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


def settle(future: "Future[Any]") -> None:
    """Wait for it, whatever comes of it: another one's failure is being reported."""
    with contextlib.suppress(Exception, CancelledError):
        result(future)
