"""Labelled pairs: what curators are judged by, from photographs, from the small world or from people."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from dsd.data.store import Run
from dsd.evaluation.measuring import measure_all
from dsd.mini.measure import SAME, Measurement, identity
from dsd.studies.reading import table_rows
from dsd.types import Pair, image_digest

_YES = frozenset({"1", "true", "yes", "same"})
_NO = frozenset({"0", "false", "no", "different"})
_UNSURE = frozenset({"", "unsure"})
_MEASURED_AT_ONCE = 8192  # pictures, of 12 kB each


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is known of one pair.

    Attributes:
        pair_id: of the pair.
        same: whether both pictures show the same subject.
        group: what kind of pair it is, such as "same class" for two dogs; empty if nothing is said.
        subjects: the one or two whom it shows, if that is known, or the grid that it comes from: pairs that
            share a subject are not independent.
        pictures: what its pictures are called, where that is known: without subjects, pairs that share a
            picture are not independent either.

    Raises:
        ValueError: if more than two subjects or pictures are named.
    """

    pair_id: str
    same: bool
    group: str = ""
    subjects: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in {"subjects": self.subjects, "pictures": self.pictures}.items():
            if len(values) > 2:
                raise ValueError(
                    f"The pair {self.pair_id!r} has {len(values)} {name}: {', '.join(values[:5])}. Two "
                    "pictures show one subject or two."
                )


@dataclass(frozen=True, kw_only=True)
class LabelledPairs:
    """Pairs with their labels; the pictures are read when they are asked for.

    Attributes:
        source: what to call them.
        truth: where the labels come from, in a sentence.
        labels: one a pair.
        load: yields `(pair id, pair)` for a set of ids, in the order of the labels.
        hard: the group of the negatives that are hardest to tell; empty if there is none.
        units: what the labels' `subjects` are, in the plural.
        left_out: how many pairs have no clear label.

    Raises:
        ValueError: if an id is there twice, or not both labels are there.
    """

    source: str
    truth: str
    labels: tuple[Label, ...]
    load: Callable[[Collection[str]], Iterator[tuple[str, Pair]]]
    hard: str = ""
    units: str = "subjects"
    left_out: int = 0

    def __post_init__(self) -> None:
        twice = [pair_id for pair_id, count in Counter(x.pair_id for x in self.labels).items() if count > 1]
        if twice:
            raise ValueError(
                f"{self.source} labels the pair {twice[0]!r} more than once. Give each one label."
            )
        num_same = sum(label.same for label in self.labels)
        if not 0 < num_same < len(self.labels):
            raise ValueError(
                f"{self.source} has {num_same} pairs of the same subject and {len(self.labels) - num_same} "
                "of different ones. Both kinds are needed to judge a curator."
            )

    @cached_property
    def digest(self) -> str:
        """20 hexadecimal characters that depend on every pair and label, and not on their order."""
        rows = sorted(
            f"{x.pair_id}\t{x.same}\t{x.group}\t{'|'.join(sorted(x.subjects))}" for x in self.labels
        )
        return hashlib.sha256("\n".join([self.hard, *rows]).encode()).hexdigest()[:20]


def meaning(value: str) -> bool | None:
    """A label as it is written in a table: whether it says "the same"; None where nobody is sure.

    Raises:
        ValueError: if it says neither.
    """
    said = value.strip().lower()
    if said in _YES | _NO:
        return said in _YES
    if said in _UNSURE:
        return None
    raise ValueError(
        f"{value!r} is no label. Allowed: same, different, unsure; or 1, 0; yes, no; true, false."
    )


def of_small_world(run: Run, *, workers: int = 2, progress: str | None = None) -> LabelledPairs:
    """All pairs of a run of the small world, whose labels are measured by geometry and colour.

    Args:
        run: with pairs of 64 x 64 px panels.
        workers: see `measure_all`.
        progress: see `measure_all`.

    Raises:
        FileNotFoundError: if the run has no pairs.
        ValueError: if a panel has another size, or all pairs have one label.
    """
    seen: dict[str, Measurement] = {}
    new: dict[str, Image.Image] = {}

    def measure_new() -> None:
        found = measure_all([*new.values()], workers=workers, progress=progress)
        seen.update(zip(new, found, strict=True))
        new.clear()

    rows = []
    for pair_id, pair in run.pairs.items():
        reference, target = image_digest(pair.reference), image_digest(pair.target)
        shown = {reference: pair.reference, target: pair.target}
        if strange := [image.size for image in shown.values() if image.size != (64, 64)]:
            raise ValueError(
                f"{run.path} is no run of the small world: it has panels of {strange[0]} px, not 64 x 64, "
                "so that its pairs cannot be labelled by measurement. Give `labels`, made by people."
            )
        new.update({digest: image for digest, image in shown.items() if digest not in seen})
        rows.append((pair_id, reference, target, pair.grid_id))
        if len(new) >= _MEASURED_AT_ONCE:
            measure_new()
    measure_new()
    labels = []
    for pair_id, reference, target, grid_id in rows:
        same = identity(seen[reference], seen[target]) >= SAME
        group = "same character" if same else "another character"
        labels.append(Label(pair_id=pair_id, same=same, group=group, subjects=(grid_id,)))
    return LabelledPairs(
        source=run.path.resolve().name,
        truth=f"Labels are measured by geometry and colour, unseen by curators: identity of {SAME} or more.",
        labels=tuple(labels),
        load=run.pairs.items,
        units="grids",
    )


def of_people(run: Run, path: Path, columns: Mapping[str, str] | None = None) -> LabelledPairs:
    """The pairs of a run that people have labelled; where several did, the majority counts.

    Args:
        run: with the pairs.
        path: a Parquet or CSV file, or a folder of Parquet files, with the columns `pair_id` and `label`:
            same, different or unsure.
        columns: what these columns are called instead.

    Raises:
        FileNotFoundError: if there is no such file, or the run has no pairs.
        ValueError: if a column is missing, a label says nothing, or a pair is not in the run.
    """
    names = {"pair_id": "pair_id", "label": "label", **(columns or {})}
    votes: dict[str, list[bool | None]] = {}
    for number, pair_id, said in _label_rows(path, names["pair_id"], names["label"]):
        try:
            votes.setdefault(pair_id, []).append(meaning(said))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
    grids = run.pairs.columns("id", "grid_id")
    grid_of = dict(zip(grids["id"].to_pylist(), grids["grid_id"].to_pylist(), strict=True))
    if strange := sorted(set(votes) - set(grid_of)):
        raise ValueError(
            f"{path} labels {len(strange)} pairs that {run.path} does not have, such as {strange[0]!r}. Give "
            "the run that was labelled."
        )
    clear = {pair_id: same for pair_id, said in votes.items() if (same := _majority(said)) is not None}
    return LabelledPairs(
        source=run.path.resolve().name,
        truth=f"Labels were given by people, in {path.name}.",
        labels=tuple(
            Label(pair_id=i, same=clear[i], subjects=(grid_id,) if grid_id else ())
            for i, grid_id in grid_of.items()
            if i in clear
        ),
        load=run.pairs.items,
        units="grids",
        left_out=len(votes) - len(clear),
    )


def _majority(said: Iterable[bool | None]) -> bool | None:
    counts = Counter(said)
    return None if counts[True] == counts[False] else counts[True] > counts[False]


def _label_rows(path: Path, pair_id: str, label: str) -> Iterator[tuple[int, str, str]]:
    """(number, pair id, label) of every row, from 1."""
    if not path.exists():
        raise FileNotFoundError(f"There are no labels in {path}: no such file. Check the path.")
    for line, row in table_rows(path, (pair_id, label)):
        yield line, row[pair_id], row[label]
