"""The pairs of a run, as others read them."""

import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from dsd.data.rows import decode_image
from dsd.data.storage import Location, location
from dsd.data.store import Run
from dsd.exchange import LAYOUTS, card
from dsd.exchange.outgoing import Outgoing
from dsd.exchange.output import RunLike, as_run, new_folder
from dsd.exchange.writers import WRITERS

_WITH_VERDICTS = ("subjects200k", "webdataset", "imagefolder")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: where it is.
        layout: its layout.
        pairs: how many pairs are in it.
        left_out: why pairs are not, with how many; a layout may have no place for them.
        num_bytes: of all files.
        seconds: how long it took.
    """

    folder: Location
    layout: str
    pairs: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    num_bytes: int
    seconds: float

    def __str__(self) -> str:
        out = "".join(f"; {count} left out: {why}" for why, count in self.left_out.items())
        size = f"{self.num_bytes / 1e6:,.1f} MB, {self.seconds:.1f} s"
        return f"{self.layout}: {self.pairs} pairs in {self.folder} ({size}){out}"


def export_pairs(
    run: RunLike,
    out: str | PathLike[str],
    layout: Literal["release", "subjects200k", "webdataset", "imagefolder"] = "release",
    policy: str | Mapping[str, Any] | None = None,
    captions: str | None = None,
    images: Literal["png", "jpeg"] = "png",
    quality: int = 95,
    padding: int = 16,
    shard_pairs: int = 2000,
    shard_mb: int = 500,
    license: str | None = None,
    title: str | None = None,
    progress: bool = True,
) -> Exported:
    """Write the accepted pairs of a run in another layout, with a data set card and a sheet of pictures. OUT
    appears whole or not at all.

    Args:
        run: the run or its folder.
        out: the new folder, or a URL; what is uploaded is written to the folder for temporary files first.
        layout: "release", Parquet as primecai/dsd_data; "subjects200k"; "webdataset", tar archives;
            "imagefolder", pictures and metadata.jsonl.
        policy: which pairs; see `Run.accepted`.
        captions: the name of captions to take instead of the pairs' own.
        images: "png" keeps every pixel; "jpeg" is smaller and does not.
        quality: of "jpeg", 1 to 100.
        padding: of "subjects200k": pixels around and between the two pictures.
        shard_pairs: the most pairs in a file.
        shard_mb: megabytes (of 2^20 bytes) of pictures after which a file ends.
        license: for the card, such as "apache-2.0" or "other".
        title: of the card; the folder's name by default.
        progress: show a progress bar on stderr.

    Raises:
        FileExistsError: if there is something in `out`.
        FileNotFoundError: if there is no run.
        ValueError: if no pair is accepted, or an argument is out of range.
        LookupError: if there are no such captions or verdicts.
        ManifestError: if a shard is damaged.
        OSError: explained, if the disk cannot be written.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}. Allowed: {', '.join(LAYOUTS)}.")
    if images not in ("png", "jpeg") or not 1 <= quality <= 100:
        raise ValueError(f"`images` is 'png' or 'jpeg', `quality` 1 to 100; got {images!r} and {quality}.")
    for name, number, least in (
        ("padding", padding, 0),
        ("shard_pairs", shard_pairs, 1),
        ("shard_mb", shard_mb, 1),
    ):
        if number < least:
            raise ValueError(f"`{name}` must be at least {least}; got {number}.")
    started = time.monotonic()
    source = as_run(run)
    source.check("pairs")
    ids = source.accepted(policy)
    if captions is not None:
        ids = source.captioned(captions, ids)
    if not ids:
        raise ValueError(f"No pair of {source.path} is accepted. Loosen the policy, or use 'every'.")
    target = location(out)
    if isinstance(target, Path):
        target = target.absolute()
    left_out: Counter[str] = Counter()
    with (
        new_folder(target) as new,
        tqdm(total=len(ids), desc="export", unit="pair", file=sys.stderr, disable=not progress) as bar,
    ):
        # Pictures that are joined become JPEG once, together.
        encode = _png if images == "png" or layout == "subjects200k" else _jpeg(quality)
        with WRITERS[layout](
            new, images=images, shard_pairs=shard_pairs, shard_bytes=shard_mb << 20
        ) as writer:
            writer.padding, writer.quality = padding, quality
            for outgoing in _outgoing(source, ids, captions, encode, layout in _WITH_VERDICTS):
                if why := writer.add(outgoing):
                    left_out[why] += 1
                bar.update()
            num_pairs = writer.finish()
        if not num_pairs:
            raise ValueError(f"No pair has a place in the layout {layout!r}: {', '.join(left_out)}.")
        told = {
            "layout": layout, "images": images if images == "png" else f"jpeg, quality {quality}",
            "captions": captions, "left out": dict(left_out), "pairs": num_pairs,
        }  # fmt: skip
        card.write(
            new, source, ids, policy=policy, title=title or target.name, license=license,
            data_files=writer.data_files, export=told,
        )  # fmt: skip
        num_bytes = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
    return Exported(
        folder=target,
        layout=layout,
        pairs=num_pairs,
        left_out=dict(left_out),
        num_bytes=num_bytes,
        seconds=time.monotonic() - started,
    )


def _outgoing(
    run: Run,
    ids: Sequence[str],
    captions: str | None,
    encode: Callable[[Mapping[str, Any]], bytes],
    with_verdicts: bool,
) -> Iterator[Outgoing]:
    written = None if captions is None else run.captions(captions)
    tables = {name: run.verdicts(name) for name in run.curators()} if with_verdicts else {}
    for table in tables.values():
        run.check(table.kind.stage)
    for row in run.pairs.rows(ids):
        pair_id = row["id"]
        fields = {name: value for name, value in row.items() if name not in ("reference", "target")}
        if written is not None:
            fields["caption"] = written[pair_id].caption
        yield Outgoing(
            fields=fields,
            reference=encode(row["reference"]),
            target=encode(row["target"]),
            verdicts={name: table[pair_id].verdict for name, table in tables.items() if pair_id in table},
        )


def _png(cell: Mapping[str, Any]) -> bytes:
    """As it is stored."""
    return bytes(cell["bytes"])


def _jpeg(quality: int) -> Callable[[Mapping[str, Any]], bytes]:
    def encode(cell: Mapping[str, Any]) -> bytes:
        buffer = io.BytesIO()
        decode_image(cell).convert("RGB").save(buffer, "JPEG", quality=quality, subsampling=0)
        return buffer.getvalue()

    return encode
