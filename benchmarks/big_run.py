"""Runs of any size, made quickly: rows as the stages write them, whose pictures come from a small pool."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import dsd
from dsd.data.rows import GRIDS, PAIRS, PROMPTS, Row, TableKind, verdicts
from dsd.data.table import Table
from dsd.data.writer import TableWriter

PAIRS_A_GRID = 12
_BATCH = 2400


def pool(folder: Path | None, count: int, size_px: int, kind: str = "JPEG") -> list[bytes]:
    """Encoded pictures of one size: crops of the photographs in a folder, or drawn ones without it.

    Args:
        folder: with .jpg, .jpeg or .png files.
        count: how many pictures.
        size_px: of each side.
        kind: of file: "JPEG" or "PNG".

    Raises:
        ValueError: if there is no picture in the folder.
    """
    rng = np.random.default_rng(0)
    files = sorted(p for p in (folder.rglob("*") if folder else ()) if p.suffix in (".jpg", ".jpeg", ".png"))
    if folder is not None and not files:
        raise ValueError(f"There are no .jpg, .jpeg or .png files in {folder}.")
    found = []
    for i in range(count):
        if files:
            with Image.open(files[i % len(files)]) as photograph:
                whole = photograph.convert("RGB")
            scale = rng.uniform(0.5, 1.0)
            width, height = (max(1, int(side * scale)) for side in whole.size)
            left, top = (
                int(rng.integers(0, a - b + 1)) for a, b in zip(whole.size, (width, height), strict=True)
            )
            picture = ImageOps.fit(whole.crop((left, top, left + width, top + height)), (size_px, size_px))
        else:
            noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize((size_px, size_px), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {"compress_level": 3}))
        found.append(buffer.getvalue())
    return found


def make(
    path: Path, rows: int, pictures: Sequence[bytes], *, kept: float = 0.5, sorted_verdicts: bool = False
) -> dsd.Run:
    """A run of prompts, grids, pairs and the verdicts of a curator "bench".

    Args:
        path: of the run.
        rows: pairs, twelve a grid; the last grid may have fewer.
        pictures: encoded; the panels of a grid are four of them.
        kept: share of the pairs that are accepted.
        sorted_verdicts: accept the first ones instead of any, so that whole row groups are dropped.
    """
    run = dsd.Run(path)
    grids = -(-rows // PAIRS_A_GRID)
    with run.lock("benchmark"):
        _write(run.prompts, PROMPTS, map(_prompt, range(grids)))
        _write(run.grids, GRIDS, (_grid(i, pictures) for i in range(grids)), run.prompts)
        _write(run.pairs, PAIRS, (_pair(i, pictures) for i in range(rows)), run.grids)
        accepted = (
            i < rows * kept if sorted_verdicts else _number(i) % 1000 < 1000 * kept for i in range(rows)
        )
        judged = (_verdict(i, keep) for i, keep in enumerate(accepted))
        _write(run.verdicts("bench"), verdicts("bench"), judged, run.pairs)
        run.save_manifest()
    return run


def judge_most(run: dsd.Run, name: str, spec: Mapping[str, Any], count: int) -> None:
    """Verdicts of one more curator on the first `count` pairs, as if it had been stopped there."""
    with run.lock("benchmark"):
        rows = (_verdict(i, True) for i in range(count))
        _write(run.verdicts(name), verdicts(name), rows, run.pairs, spec)


def pair_id(number: int) -> str:
    """The id of a pair of such a run: as random as real ones are."""
    return hashlib.sha256(f"pair {number}".encode()).hexdigest()[:20]


def _write(
    table: Table[Any],
    kind: TableKind[Any],
    rows: Iterable[Row],
    earlier: Table[Any] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> None:
    ready = Table(table.folder, replace(kind, to_rows=list))  # they are rows already
    before = None if earlier is None else earlier.manifest
    made_from = None if before is None else {"stage": before.stage, "rows": before.rows, "ids": before.ids}
    with TableWriter(ready, spec or {"name": "bench"}, made_from) as writer:
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                writer.add(batch)
                batch = []
        writer.add(batch)
        writer.finish()


def _number(i: int) -> int:
    return int.from_bytes(hashlib.sha256(f"verdict {i}".encode()).digest()[:4], "big")


def _cell(picture: bytes) -> dict[str, Any]:
    return {"bytes": picture, "path": None}


def _grid_id(i: int) -> str:
    return hashlib.sha256(f"grid {i}".encode()).hexdigest()[:20]


def _prompt(i: int) -> Row:
    fields = {
        "text": f"a 2x2 grid of creature {i}",
        "subject": f"creature {i}",
        "panels": ["in the snow"] * 4,
    }
    return {
        "id": hashlib.sha256(f"prompt {i}".encode()).hexdigest()[:20],
        **fields,
        "layout": "2x2",
        "kind": "character",
        "writer": "bench",
        "seed": i,
    }


def _grid(i: int, pictures: Sequence[bytes]) -> Row:
    prompt = _prompt(i)
    prompt_id, seed = prompt.pop("id"), prompt.pop("seed")
    return {
        "id": _grid_id(i),
        "prompt_id": prompt_id,
        "image": _cell(pictures[i % len(pictures)]),
        "seed": i,
        "teacher": "bench",
        **prompt,
        "prompt_seed": seed,
    }


def _pair(i: int, pictures: Sequence[bytes]) -> Row:
    grid, number = divmod(i, PAIRS_A_GRID)
    reference, target = number // 3, number % 3
    target += target >= reference
    panels = [pictures[(grid * 4 + panel) % len(pictures)] for panel in (reference, target)]
    return {
        "id": pair_id(i),
        "reference": _cell(panels[0]),
        "target": _cell(panels[1]),
        "caption": f"creature {grid}, in scene {target}",
        "subject": f"creature {grid}",
        "kind": "character",
        "grid_id": _grid_id(grid),
        "reference_panel": reference,
        "target_panel": target,
        "source": "bench",
    }


def _verdict(i: int, keep: bool) -> Row:
    return {
        "pair_id": pair_id(i),
        "status": "accepted" if keep else "rejected",
        "score": _number(i) / 2**32,
        "reason": "a reason in a few words",
        "cost_usd": 0.001,
        "raw": "x" * 200,
    }
