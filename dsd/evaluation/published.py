"""Published tables of subject-driven generation, and what they say under one rule of averaging.

The tables are in `published.json`, with their sources: "dreambench++" (its leaderboard), "dsd" (Table 1 of
the paper) and "dsd_debiased" (the same table's columns from a judge that penalises copies). Their overall
numbers are not all averaged alike: in "dsd" the baselines' are means of columns, and those of the paper's own
method means of pictures. `recompute` averages every row by one rule, and `ranking_change` shows what that
does to the ranking; `python -m dsd.evaluation.published` writes it out.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PICTURES: Mapping[str, int] = {"animal": 45, "human": 20, "object": 65, "style": 20}
"""Reference pictures of each category of DreamBench++."""

PROMPTS: Mapping[str, int] = {"photorealistic": 4, "style": 3, "imaginative": 2}
"""Prompts of each kind that DreamBench++ has for a reference picture."""

RULES: Mapping[str, str] = {
    "micro": "every picture counts alike: categories by their 45, 20, 65 and 20 references, kinds of prompts "
    "by 4, 3 and 2",
    "macro": "every column that the table shows counts alike",
    "macro_with_style": "as macro, with the style prompts, which the table does not show",
    "printed": "each row by the rule that its printed numbers follow",
}
"""What a rule of averaging does, by its name."""

_WITH_STYLE = "macro_with_style"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A method's row of a published table; all numbers are in [0, 1].

    Attributes:
        method: what the method is called in every table.
        name: what the table calls it.
        cp: the printed overall concept preservation.
        pf: the printed overall prompt following.
        cp_pf: the printed product.
        categories: concept preservation by category.
        kinds: prompt following by kind of prompt; "style" too where another table shows it.
        cp_rule: which of `RULES` the printed `cp` follows.
        pf_rule: which of `RULES` the printed `pf` follows.
        note: what is wrong with a printed number; empty if nothing is.
        others: further numbers of the row, such as "clip_i" and "dino_i".
    """

    method: str
    name: str
    cp: float
    pf: float
    cp_pf: float
    categories: Mapping[str, float]
    kinds: Mapping[str, float]
    cp_rule: str
    pf_rule: str
    note: str = ""
    others: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A published table.

    Attributes:
        name: what it is called here.
        title: what it is called elsewhere.
        source: where it was published.
        judge: who rated.
        categories: the categories that it shows.
        kinds: the kinds of prompts that it shows.
        rows: of its methods, as printed from top to bottom.
    """

    name: str
    title: str
    source: str
    judge: str
    categories: Sequence[str]
    kinds: Sequence[str]
    rows: Sequence[PublishedRow]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a rule puts a method: its overall numbers, not rounded, and its rank by `cp_pf`, from 1.

    `cp_rule` and `pf_rule` say what was applied, which differ from row to row only under "printed".
    """

    method: str
    name: str
    rank: int
    cp: float
    pf: float
    cp_pf: float
    cp_rule: str
    pf_rule: str


def names() -> list[str]:
    """The names of the tables."""
    return list(_content())


def table(name: str) -> PublishedTable:
    """A table by its name.

    Raises:
        LookupError: if there is none of that name.

    Example:
        >>> table("dreambench++").rows[0].categories["animal"]
        0.751
    """
    if name not in _content():
        raise LookupError(f"No published table is named {name!r}. Known: {', '.join(names())}.")
    content = _content()[name]
    rows = [_row(row) for row in content["rows"]]
    return PublishedTable(name=name, **{**content, "rows": rows})


def recompute(name: str, rule: str = "micro") -> list[Standing]:
    """A table's overall numbers by a rule of averaging, from its columns; the best `cp_pf` first.

    The product is of the overall numbers, as DreamBench++ has it.

    Args:
        name: of the table.
        rule: one of `RULES`.

    Raises:
        LookupError: if there is no such table.
        ValueError: if there is no such rule, or a row lacks a column that it needs.

    Example:
        >>> [(x.method, round(x.cp_pf, 3)) for x in recompute("dsd")[:2]]
        [('dreambooth_lora', 0.492), ('dsd', 0.458)]
    """
    if rule not in RULES:
        raise ValueError(f"Unknown rule {rule!r}. Allowed: {', '.join(RULES)}.")
    found = table(name)
    standings = []
    for row in found.rows:
        cp_rule, pf_rule = (row.cp_rule, row.pf_rule) if rule == "printed" else (rule, rule)
        cp = _mean(row, row.categories, found.categories, PICTURES, cp_rule)
        kinds = list(dict.fromkeys([*found.kinds, "style"])) if pf_rule == _WITH_STYLE else found.kinds
        pf = _mean(row, row.kinds, kinds, PROMPTS, pf_rule)
        standings.append((row, cp, pf, cp_rule, pf_rule))
    standings.sort(key=lambda standing: -standing[1] * standing[2])
    return [
        Standing(
            method=row.method, name=row.name, rank=rank, cp=cp, pf=pf, cp_pf=cp * pf, cp_rule=cp_rule,
            pf_rule=pf_rule,
        )
        for rank, (row, cp, pf, cp_rule, pf_rule) in enumerate(standings, 1)
    ]  # fmt: skip


def ranking_change(name: str = "dsd", rule: str = "micro") -> list[dict[str, Any]]:
    """A table as it is printed, and by one rule: a row a method, the best by the rule first.

    Args:
        name: of the table.
        rule: one of `RULES`.

    Returns:
        for each method `printed_cp`, `printed_pf`, `printed_cp_pf`, `printed_rank` and the printed numbers'
        rules; `cp`, `pf`, `cp_pf` and `rank` by the rule; and `note`.

    Raises:
        LookupError, ValueError: as `recompute`.
    """
    printed = sorted(table(name).rows, key=lambda row: -row.cp_pf)
    places = {row.method: (rank, row) for rank, row in enumerate(printed, 1)}
    rows = []
    for standing in recompute(name, rule):
        rank, row = places[standing.method]
        rows.append(
            {
                "method": row.method,
                "name": row.name,
                "printed_rank": rank,
                "printed_cp": row.cp,
                "printed_pf": row.pf,
                "printed_cp_pf": row.cp_pf,
                "cp_rule": row.cp_rule,
                "pf_rule": row.pf_rule,
                "rank": standing.rank,
                "cp": standing.cp,
                "pf": standing.pf,
                "cp_pf": standing.cp_pf,
                "note": row.note,
            }
        )
    return rows


def markdown(name: str = "dsd", rule: str = "micro") -> str:
    """`ranking_change` as a Markdown table with its source."""
    found = table(name)
    heads = ["method", "printed CP", "printed PF", "printed CP·PF", "rank", "CP averaged", "PF averaged"]
    lines = [[*heads, f"CP, {rule}", f"PF, {rule}", f"CP·PF, {rule}", "rank", "note"]]
    lines.append(["---", *["---:"] * 4, "---", "---", *["---:"] * 4, "---"])
    for row in ranking_change(name, rule):
        printed = _three_decimals(row["printed_cp"], row["printed_pf"], row["printed_cp_pf"])
        ours = _three_decimals(row["cp"], row["pf"], row["cp_pf"])
        rules = [row["cp_rule"].replace("_", " "), row["pf_rule"].replace("_", " ")]
        lines.append(
            [row["name"], *printed, str(row["printed_rank"]), *rules, *ours, str(row["rank"]), row["note"]]
        )
    told = f"{found.title}. {found.source}. Judge: {found.judge}. By the rule “{rule}”, {RULES[rule]}."
    return "\n".join([told, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def _mean(
    row: PublishedRow,
    columns: Mapping[str, float],
    wanted: Sequence[str],
    counts: Mapping[str, int],
    rule: str,
) -> float:
    if missing := [name for name in wanted if name not in columns]:
        raise ValueError(f"{row.name} has no column {missing[0]!r}, which the rule {rule!r} needs.")
    weights = [counts[name] if rule == "micro" else 1 for name in wanted]
    return sum(w * columns[name] for w, name in zip(weights, wanted, strict=True)) / sum(weights)


def _three_decimals(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]


@cache
def _content() -> dict[str, Any]:
    file = Path(__file__).with_name("published.json")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _row(content: Mapping[str, Any]) -> PublishedRow:
    own = ("method", "name", "cp", "pf", "cp_pf", "cp_rule", "pf_rule", "note")
    categories = {key[3:]: content[key] for key in content if key.startswith("cp_") and key[3:] in PICTURES}
    kinds = {key[3:]: content[key] for key in content if key.startswith("pf_") and key[3:] in PROMPTS}
    used = {*own, *(f"cp_{key}" for key in categories), *(f"pf_{key}" for key in kinds)}
    return PublishedRow(
        **{key: content[key] for key in own if key in content},
        categories=categories,
        kinds=kinds,
        others={key: value for key, value in content.items() if key not in used},
    )


if __name__ == "__main__":
    for title in names():
        sys.stdout.write(f"## {title}\n\n{markdown(title)}\n")
