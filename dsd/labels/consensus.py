"""How well people agree, and what most of them say."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from os import PathLike
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torchmetrics.functional.classification import multiclass_cohen_kappa
from torchmetrics.functional.nominal import fleiss_kappa

from dsd.data.atomic import make_folder, replace_file
from dsd.data.store import Run
from dsd.labels.store import LABELS, Label, LabelName, read
from dsd.texts import csv_cell


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well some people agree on the pairs that all of them labelled.

    Attributes:
        people: who.
        num_pairs: how many pairs all of them labelled.
        share: how often two of them said the same of a pair, in [0, 1]; None if there is no pair.
        kappa: the same corrected for chance, at most 1: Cohen's for two people, Fleiss' for more (that of
            torchmetrics, which adds 1e-5 to the denominator). None where it is not defined: without a pair,
            or when nobody ever said anything but one and the same.
    """

    people: tuple[str, ...]
    num_pairs: int
    share: float | None
    kappa: float | None


def agreement(labels: Iterable[Label], people: Sequence[str] | None = None) -> Agreement:
    """Agreement of several people; "unsure" is a label like the others.

    Args:
        labels: one a person and pair, as `read` gives them.
        people: whose agreement; everybody's by default.

    Raises:
        ValueError: if there are fewer than two people.

    References:
        Cohen, *A coefficient of agreement for nominal scales*, 1960; Fleiss, *Measuring nominal scale
        agreement among many raters*, 1971.
    """
    by_person: dict[str, dict[str, int]] = defaultdict(dict)
    for label in labels:
        by_person[label.person][label.pair_id] = LABELS.index(label.label)
    names = tuple(sorted(by_person) if people is None else people)
    if len(names) < 2:
        raise ValueError(
            f"Agreement is of two people or more; got {', '.join(names) or 'nobody'}. Let another person "
            "label the same pairs: dsd label RUN --person NAME, with the same --count and --seed."
        )
    common = sorted(set.intersection(*(set(by_person[name]) for name in names)))
    if not common:
        return Agreement(people=names, num_pairs=0, share=None, kappa=None)
    said = torch.tensor([[by_person[name][pair_id] for pair_id in common] for name in names])
    same = [(said[i] == said[j]).double().mean() for i, j in combinations(range(len(names)), 2)]
    kappa: float | None = None
    if len(said.unique()) > 1:  # otherwise agreement by chance is 1, too
        if len(names) == 2:
            kappa = float(multiclass_cohen_kappa(said[0], said[1], num_classes=len(LABELS)))
        else:
            kappa = float(fleiss_kappa(torch.nn.functional.one_hot(said, len(LABELS)).sum(0)))
    return Agreement(
        people=names,
        num_pairs=len(common),
        share=float(torch.stack(same).mean()),
        kappa=kappa,
    )


def agreement_by_two(labels: Iterable[Label]) -> list[Agreement]:
    """Agreement of every two people."""
    labels = list(labels)
    return [agreement(labels, two) for two in combinations(sorted({label.person for label in labels}), 2)]


def majority(labels: Iterable[Label]) -> dict[str, LabelName]:
    """What most people say of each pair, by its id; "unsure" where two labels share the first place.

    Example:
        >>> when = "2025-03-01T12:30:00+00:00"
        >>> said = {"ann": "same", "bob": "different", "eve": "same"}
        >>> majority(Label(pair_id="p", label=x, person=name, time=when) for name, x in said.items())
        {'p': 'same'}
    """
    votes: dict[str, Counter[LabelName]] = defaultdict(Counter)
    for label in labels:
        votes[label.pair_id][label.label] += 1
    most: dict[str, LabelName] = {}
    for pair_id, counts in votes.items():
        (first, number), *others = counts.most_common()
        most[pair_id] = "unsure" if others and others[0][1] == number else first
    return most


def export(run: Run | str | PathLike[str], path: str | PathLike[str], person: str | None = None) -> int:
    """Write labels as a table with the columns `pair_id` and `label`, in one step.

    Args:
        run: the run or its folder.
        path: the file to write, .csv or .parquet.
        person: whose labels; by default what most people say, see `majority`.

    Returns:
        how many rows it has.

    Raises:
        ValueError: if the file's name ends otherwise, or nothing has been labelled.
        OSError: explained, if it cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"Labels are written as .csv or .parquet; got {str(path)!r}.")
    run = run if isinstance(run, Run) else Run(run)
    rows = sorted(majority(read(run, person)).items())
    if not rows:
        who = "Nobody" if person is None else person
        raise ValueError(f"{who} has not labelled a pair of {run.path} yet. Begin with: dsd label {run.path}")
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        text = io.StringIO()
        table = [("pair_id", "label"), *((csv_cell(pair_id), label) for pair_id, label in rows)]
        csv.writer(text, lineterminator="\n").writerows(table)
        buffer.write(text.getvalue().encode())
    else:
        ids, said = zip(*rows, strict=True)
        pq.write_table(pa.table({"pair_id": pa.array(ids), "label": pa.array(said)}), buffer)
    make_folder(path.parent)
    replace_file(path, buffer.getvalue())
    return len(rows)
