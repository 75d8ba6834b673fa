"""What an engine is: one that does the batches of a stage somewhere, and hands back rows in order."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from dsd.data.rows import Failure, Row
from dsd.llm.records import Stopped
from dsd.registry import Recorded

Batch = list[tuple[str, Any]]
"""Some records of the earlier stage with their ids."""

Result = list[Row] | Failure | Stopped
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


def aligned(
    wanted: Sequence[str], done: Collection[str], size: int, *, whole: bool = True
) -> list[Sequence[str]]:
    """The batches that have something missing, cut at fixed places of the list.

    So a batch holds the same records whatever was stopped before, and its rows come out the same, bit for
    bit.

    Args:
        wanted: all ids.
        done: those that need not be done.
        size: of a batch.
        whole: with those of a batch that are done; else the missing ones alone.
    """
    batches: list[Sequence[str]] = []
    for start in range(0, len(wanted), size):
        batch = wanted[start : start + size]
        missing = [row_id for row_id in batch if row_id not in done]
        if missing:
            batches.append(batch if whole else missing)
    return batches
