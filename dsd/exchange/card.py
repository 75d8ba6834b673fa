"""The card of a data set of pairs, as the Hugging Face Hub shows it, with a sheet of pictures."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from os import PathLike
from typing import Any

from huggingface_hub import DatasetCardData

import dsd
from dsd.data.atomic import replace_file
from dsd.data.manifest import without_secrets
from dsd.data.policy import Policy
from dsd.data.storage import Location, location
from dsd.data.store import Run
from dsd.exchange.output import RunLike, as_run
from dsd.exchange.sheet import pair_sheet
from dsd.texts import markdown_text as escaped

SHEET = "pairs.png"
_PICTURES = 12
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_PATH = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\.\.?[\\/]).*[\\/]")


def write_card(
    run: RunLike,
    out: str | PathLike[str] | None = None,
    policy: str | Mapping[str, Any] | None = None,
    license: str | None = None,
    title: str | None = None,
) -> Location:
    """Write the data set card of a run, README.md, and a sheet of its pairs, pairs.png. With them the run can
    be shown on the Hub as it is.

    Args:
        run: the run or its folder.
        out: the folder to write them to, or its URL; the run's own by default.
        policy: which pairs are counted and shown; see `Run.accepted`.
        license: such as "apache-2.0" or "other".
        title: of the card; the run's name by default.

    Returns:
        the card.

    Raises:
        ValueError: if no pair is accepted.
        FileExistsError: if there is a README.md that is no card of this command.
        FileNotFoundError: if there is no run, or it has no pairs.
    """
    source = as_run(run)
    source.check("pairs")
    ids = source.accepted(policy)
    if not ids:
        raise ValueError(f"No pair of {source.path} is accepted. Loosen the policy, or use 'every'.")
    folder = source.path if out is None else location(out)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Make it, or leave `out` out.")
    card = folder / "README.md"
    if card.exists() and _MARK not in card.read_bytes().decode(errors="replace"):
        raise FileExistsError(f"{card} was written by somebody else. Move it away, or give `out`.")
    write(
        folder, source, ids, policy=policy, title=title or source.path.name, license=license,
        data_files="pairs/part-*.parquet" if out is None else None,
    )  # fmt: skip
    return card


_MARK = "<!-- card of dsd -->"


def write(
    folder: Location,
    run: Run,
    ids: Sequence[str],
    *,
    policy: str | Mapping[str, Any] | Policy | None,
    title: str,
    license: str | None,
    data_files: str | None = None,
    export: Mapping[str, Any] | None = None,
) -> None:
    """Write `README.md` and `pairs.png`.

    Args:
        folder: where to.
        run: what is described.
        ids: of the pairs that are in the data set.
        policy: that chose them.
        title: of the card.
        license: for the card.
        data_files: where the data are in the folder.
        export: how they were written, if in another layout.
    """
    count = len(ids) if export is None else int(export["pairs"])
    fields: dict[str, Any] = {
        "license": license,
        "pretty_name": title,
        "task_categories": ["text-to-image", "image-to-image"],
        "size_categories": [next((name for most, name in _SIZES if count < most), "n>1M")],
        "tags": ["diffusion-self-distillation", "subject-driven-generation", "image"],
    }
    if data_files is not None:
        files = {"split": "train", "path": data_files}
        fields["configs"] = [{"config_name": "default", "data_files": [files]}]
    head = DatasetCardData(**fields).to_yaml()
    picked = ids[:: max(1, len(ids) // _PICTURES)][:_PICTURES]
    parts = [
        f"---\n{head}\n---\n{_MARK}",
        f"# {escaped(title)}",
        "Pairs of pictures that should show the same subject: a model is given the reference and learns to "
        "draw the target as the caption says. Written by dsd, a library for [Diffusion "
        "Self-Distillation](https://arxiv.org/abs/2411.18616), in which a text-to-image model draws grids of "
        f"one subject that are cut into pairs and curated. Version {dsd.__version__}.",
        f"![Some of the pairs]({SHEET})",
        "## Counts",
        _table(["rows", "number"], _counts(run, ids, export)),
    ]
    if yields := _yields(run):
        parts += [
            "## Curators",
            "The yield is the share of accepted pairs among those accepted or rejected.",
            _table(["curator", "accepted", "rejected", "not judged", "yield", "cost"], yields),
        ]
    parts += ["## Chosen by", _json(_policy(run, policy))]
    parts += ["## Made with", _json(_specs(run))]
    if export is not None:
        parts += ["## Written as", _json({name: value for name, value in export.items() if value})]
    sheet = pair_sheet([(run.pairs[i], _statuses(run, i)) for i in picked])
    picture = BytesIO()
    sheet.save(picture, "PNG")
    replace_file(folder / SHEET, picture.getvalue())
    replace_file(folder / "README.md", ("\n\n".join(parts) + "\n").encode())


def _counts(run: Run, ids: Sequence[str], export: Mapping[str, Any] | None) -> list[list[Any]]:
    rows: list[list[Any]] = [["pairs in this data set", len(ids) if export is None else export["pairs"]]]
    for name, what in (("prompts", "prompts"), ("grids", "grids drawn"), ("pairs", "pairs before curation")):
        if run.table(name).exists:
            rows.append([what, len(run.table(name))])
        failed = run.failed(name)
        if failed.exists and len(failed):
            rows.append([f"failed: {name}", len(failed)])
    return rows


def _yields(run: Run) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name in run.curators():
        table = run.verdicts(name).columns("status", "cost_usd")
        found = Counter(table["status"].to_pylist())
        costs = [cost for cost in table["cost_usd"].to_pylist() if cost is not None]
        judged = found["accepted"] + found["rejected"]
        share = f"{found['accepted'] / judged:.1%}" if judged else "\N{EN DASH}"
        cost = f"${sum(costs):,.2f}" if costs else "\N{EN DASH}"
        rows.append([name, found["accepted"], found["rejected"], len(table) - judged, share, cost])
    return rows


def _policy(run: Run, policy: str | Mapping[str, Any] | Policy | None) -> dict[str, Any]:
    if policy is None:
        policy = "all" if run.curators() else "every"
    parsed = Policy.parse(policy)
    fields = {name: value for name, value in vars(parsed).items() if value not in (None, ())}
    if parsed.rule != "every":
        fields["curators"] = list(parsed.curators or run.curators())
    return fields


def _specs(run: Run) -> dict[str, Any]:
    """What each stage was made with; without encodings, secrets, and the folders of whoever made it."""
    stages = [stage for stage in run.stages() if stage.partition("/")[0] not in ("encoded", "failed")]
    found: dict[str, Any] = _without_folders(
        without_secrets({stage: run.table(stage).manifest.spec for stage in stages})
    )
    return found


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_folders(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    return _PATH.sub("", value) if isinstance(value, str) else value


def _statuses(run: Run, pair_id: str) -> dict[str, str]:
    tables = {name: run.verdicts(name) for name in run.curators()}
    return {name: table[pair_id].verdict.status for name, table in tables.items() if pair_id in table}


def _json(value: Any) -> str:
    # Each line begins with a space or a brace, so that no text in it can end the block.
    return f"```json\n{json.dumps(value, indent=1)}\n```"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [list(heads), ["---"] * len(heads)]
    lines += [[escaped(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
