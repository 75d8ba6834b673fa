"""The engine of one machine: one batch after the other, in this process."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    function: Callable[[list[Item]], Result], batches: Iterable[list[Item]]
) -> Iterator[tuple[list[Item], Result]]:
    """Each batch with what `function` makes of it, in order and one at a time."""
    for batch in batches:
        yield batch, function(batch)
