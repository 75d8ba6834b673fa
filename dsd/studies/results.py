"""From the cells of a comparison to its tables: every number comes out of the cells' own files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dsd.evaluation.bootstrap import interval, resamples
from dsd.studies.answers import SCORES, Scores
from dsd.studies.intervals import crossed_interval
from dsd.studies.plan import EQUAL_COMPUTE, EQUAL_STEPS, MARKS, Probe

Validated = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What all cells found.

    Attributes:
        backends: names, in the order asked for; the first is what the others are compared with.
        probes: what each costs.
        marks: steps of each backend, by mark.
        cells: manifests of each backend, one a seed.
        records: what was written down in training, likewise.
        baselines: scores of what is not trained.
    """

    backends: Sequence[str]
    probes: Mapping[str, Probe]
    marks: Mapping[str, Mapping[str, int]]
    cells: Mapping[str, Sequence[Mapping[str, Any]]]
    records: Mapping[str, Sequence[Mapping[str, Any]]]
    baselines: Mapping[str, Scores]

    def check(self) -> None:
        """All backends must have seen the same pairs in the same order.

        Raises:
            RuntimeError: if they have not.
        """
        for number in range(len(self.cells[self.backends[0]])):
            orders = {
                name: self.records[name][number]["orders"][str(self.marks[name][EQUAL_STEPS])]
                for name in self.backends
            }
            if len(set(orders.values())) > 1:
                raise RuntimeError(
                    f"The backends did not see the same pairs in the same order (seed {number}): {orders}. "
                    "Were pairs added to the run in between? Begin in another folder."
                )

    def values(self, name: str, mark: str, score: str) -> Float[np.ndarray, "seeds cases scenes"]:
        """A score of every picture."""
        step = str(self.marks[name][mark])
        return np.array([cell["scores"][step][score] for cell in self.cells[name]])

    def scores(self) -> list[dict[str, Any]]:
        """A row for each mark and backend: scores with their intervals."""
        return [self._scored(name, mark) for mark in MARKS for name in self.backends]

    def _scored(self, name: str, mark: str) -> dict[str, Any]:
        step, probe = self.marks[name][mark], self.probes[name]
        row: dict[str, Any] = {
            "backend": name,
            "mark": mark,
            "step": step,
            "tflop": step * probe.step_tflop,
            "seeds": len(self.cells[name]),
        }
        for score in SCORES:
            row |= _with_ends(score, self.values(name, mark, score))
        first = self.backends[0]
        if name != first:
            behind = self.values(name, mark, "product") - self.values(first, mark, "product")
            row |= _with_ends("ahead", behind)
        losses = [dict(record["validated"])[step] for record in self.records[name]]
        return {**row, "validation_loss": float(np.mean(losses))}

    def base_rows(self) -> list[dict[str, Any]]:
        """The same scores of what is not trained."""
        rows = []
        for name, scores in self.baselines.items():
            row: dict[str, Any] = {"backend": name, "mark": None}
            for score in SCORES:
                values = np.array(scores[score])
                low, high = interval(lambda mean: mean, values, picks=resamples(len(values)))
                row |= {score: float(values.mean()), f"{score}_low": low, f"{score}_high": high}
            rows.append(row)
        return rows

    def by_seed(self) -> list[dict[str, Any]]:
        """A row for each mark, backend and seed."""
        return [
            {
                "backend": name,
                "seed": cell["spec"]["seed"],
                "mark": mark,
                "step": self.marks[name][mark],
                **{
                    score: float(np.mean(cell["scores"][str(self.marks[name][mark])][score]))
                    for score in SCORES
                },
                "validation_loss": dict(record["validated"])[self.marks[name][mark]],
                "train_s": float(np.sum(record["seconds"])),
            }
            for name in self.backends
            for cell, record in zip(self.cells[name], self.records[name], strict=True)
            for mark in MARKS
        ]

    def seconds_a_step(self, name: str) -> float:
        """The median over all steps of all seeds."""
        return float(np.median(np.concatenate([record["seconds"] for record in self.records[name]])))

    def validation(self, name: str) -> Validated:
        """The mean loss on held-out pairs over seeds, by step."""
        runs = [record["validated"] for record in self.records[name]]
        return [(rows[0][0], float(np.mean([loss for _, loss in rows]))) for rows in zip(*runs, strict=True)]

    def quality(self) -> float:
        """The loss on held-out pairs that every backend reaches: the best of the one that is worst at it."""
        return max(min(loss for _, loss in self.validation(name)) for name in self.backends)

    def costs(self) -> list[dict[str, Any]]:
        """A row for each backend: what it costs, and what it takes to reach `quality`."""
        wanted, rows = self.quality(), []
        for name in self.backends:
            probe, step_s = self.probes[name], self.seconds_a_step(name)
            reached = next(step for step, loss in self.validation(name) if loss <= wanted)
            rows.append(
                {
                    "backend": name,
                    "trained": probe.trained,
                    "trained_parameters": probe.trained_parameters,
                    "added_parameters": probe.added_parameters,
                    "num_tokens": probe.num_tokens,
                    "step_tflop": probe.step_tflop,
                    "forward_tflop": probe.forward_tflop,
                    "formula_tflop": probe.formula_tflop,
                    "step_s": step_s,
                    "peak_mib": probe.peak_bytes / 2**20,
                    "steps_to_quality": reached,
                    "seconds_to_quality": reached * step_s,
                    "tflop_to_quality": reached * probe.step_tflop,
                }
            )
        return rows

    def best(self, mark: str = EQUAL_COMPUTE) -> dict[str, Any]:
        """The row with the highest product at a mark."""
        rows = [row for row in self.scores() if row["mark"] == mark]
        return max(rows, key=lambda row: float(row["product"]))


def _with_ends(key: str, values: Float[np.ndarray, "seeds cases scenes"]) -> dict[str, float]:
    low, high = crossed_interval(values)
    return {key: float(values.mean()), f"{key}_low": low, f"{key}_high": high}
