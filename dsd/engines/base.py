"""What an engine is: one that does the batches of a stage somewhere, and hands back rows in order."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np

from dsd.data.ids import Ids, Mask
from dsd.data.order import Positions
from dsd.data.rows import Failure, Row
from dsd.llm.records import Stopped
from dsd.registry import Recorded

Batch = list[tuple[str, Any]]
"""Some records of the earlier stage with their ids."""


@dataclass(frozen=True)
class Outage:
    """What would be recorded of a record that failed because a service did not answer: rows or a failure."""

    result: list[Row] | Failure


Result = list[Row] | Failure | Outage | Stopped
"""What became of one of them: the rows of the stage as they are stored, or why there are none."""

Done = tuple[Sequence[str], Sequence[Result]]
"""The ids of a batch, and a result for each."""


@runtime_checkable
class Source(Protocol):
    """Where the records of a batch come from; `dsd.data.table.Table` is one. A pickled one reads the same."""

    def items(self, ids: Collection[str] | None = None, /) -> Iterator[tuple[str, Any]]:
        """Those of some ids, in order."""

    def __getitem__(self, row_id: str, /) -> Any:
        """The one of that id."""


class Itself:
    """A source whose records are their own ids."""

    def items(self, ids: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
        """Those ids, twice."""
        return ((name, name) for name in ids or ())

    def __getitem__(self, name: str) -> str:
        return name


class Work(ABC):
    """What a stage does with a batch; derived classes are dataclasses.

    Pickled, it holds no plug-in but how to build it again: its class and constructor arguments. So a worker
    of another process loads its own model, once.
    """

    @abstractmethod
    def __call__(self, batch: Batch, /) -> Sequence[Result]:
        """A result for each record, in order. What depends on a record alone is a `Failure`; what is raised
        ends the stage.
        """

    def __reduce__(self) -> Any:
        """Its class and fields, plug-ins among them as recipes; fields marked "here" stay in this process."""
        names = [field.name for field in fields(self) if "here" not in field.metadata]  # type: ignore[arg-type]
        return _built_work, (type(self), {name: recipe(getattr(self, name)) for name in names})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build a plug-in again in another process."""

    cls: type[Any]
    arguments: Mapping[str, Any]


def recipe(value: Any) -> Any:
    """A value with the plug-ins in it replaced by their recipes."""
    if isinstance(value, Recorded) or hasattr(value, "_constructor_arguments"):
        arguments = value._constructor_arguments
        return Recipe(cls=type(value), arguments={name: recipe(item) for name, item in arguments.items()})
    if isinstance(value, dict):
        return {name: recipe(item) for name, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(recipe(item) for item in value)
    return value


def built(value: Any) -> Any:
    """A value with the recipes in it replaced by plug-ins."""
    if isinstance(value, Recipe):
        arguments = {name: built(item) for name, item in value.arguments.items()}
        created = value.cls(**arguments)
        if not hasattr(created, "_constructor_arguments"):
            object.__setattr__(created, "_constructor_arguments", arguments)
        return created
    if isinstance(value, dict):
        return {name: built(item) for name, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(built(item) for item in value)
    return value


def _built_work(cls: type[Work], values: Mapping[str, Any]) -> Work:
    return cls(**{name: built(value) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that an engine is given of a stage.

    Attributes:
        stage: its name.
        work: what to do with a batch.
        source: where the records are.
        batches: the ids of each batch, in the order of the source. Which records stand in one batch is part
            of what the rows are, since a model's numbers depend on the size of its batch in their last bits.
        here: whether it must be done in this process, because what the plug-in keeps there counts: limits,
            money, kept answers.
        at_once: how many batches are to be worked on at the same time in this process, each in a thread.
        going_on: whether more results are wanted; asked before a batch is begun.
        meanwhile: to be called about twice a second while results are waited for, where that is possible.
        cancel: ends `work` in other threads of this process.
    """

    stage: str
    work: Work
    source: Source
    batches: Sequence[Sequence[str]]
    here: bool = False
    at_once: int = 1
    going_on: Callable[[], bool] = lambda: True
    meanwhile: Callable[[], None] = lambda: None
    cancel: Callable[[], None] = lambda: None


class Engine(Recorded, ABC):
    """Does the batches of a stage. What it does not finish is done by the next call: it keeps no record.

    Attributes:
        remote: whether other processes do it.
    """

    remote: bool = False

    @abstractmethod
    def run(self, job: Job) -> Generator[Done, None, None]:
        """The results of the batches in their order, each handed on as soon as those before it are.

        A batch whose worker dies is tried again; a record that a worker dies of each time is a `Failure`.
        Closing the generator ends the work.

        Raises:
            Exception: whatever the work raises.
        """


class Aligned(Sequence[Sequence[str]]):
    """The batches that have something missing, cut at fixed places of all ids; made as they are asked for.

    So a batch holds the same records whatever was stopped before, and its rows come out the same, bit for
    bit.

    Args:
        wanted: all ids.
        missing: which of them are to be done.
        size: of a batch.
        whole: with those of a batch that need not be done; else the missing ones alone.

    Attributes:
        done: the ids in these batches that need not be done.
    """

    def __init__(self, wanted: Ids, missing: Mask, size: int, *, whole: bool = True) -> None:
        self._wanted, self._missing, self._size, self._whole = wanted, missing, size, whole
        self._numbers = np.unique(np.flatnonzero(missing) // size)
        places = self._inside()
        self.done = frozenset(wanted.take(places[~missing[places]]))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Sequence[str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sequence[str]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[str] | list[Sequence[str]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._wanted.take(self._places(index))

    def ids(self) -> Ids:
        """The ids of all batches, one after the other."""
        places = self._inside()
        return self._wanted if len(places) == len(self._wanted) else self._wanted.pick(places)

    def _inside(self) -> Positions:
        """The places of all ids of all batches."""
        if not self._whole:
            return np.flatnonzero(self._missing)
        inside = np.repeat(np.isin(np.arange(-(-len(self._wanted) // self._size)), self._numbers), self._size)
        return np.flatnonzero(inside[: len(self._wanted)])

    def _places(self, index: int) -> Positions:
        start = int(self._numbers[index]) * self._size
        places = np.arange(start, min(start + self._size, len(self._wanted)))
        return places if self._whole else places[self._missing[places]]
