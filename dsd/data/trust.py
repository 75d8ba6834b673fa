"""What a manifest and a shard may say: a run may come from a stranger, and its manifests name files."""

import re
import sys
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

PART = re.compile(r"part-(\d{5,9})\.parquet", re.ASCII)
"""The name of a shard."""
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KINDS: Mapping[str, type] = {
    "stage": str, "spec": dict, "made_from": dict, "versions": dict, "complete": bool, "counts": dict,
}  # fmt: skip


def check_manifest(content: Mapping[str, Any]) -> None:
    """Check a manifest as it was parsed.

    Raises:
        ValueError: if a field has the wrong kind, or a shard is a file elsewhere, or is there twice.
    """
    for name, kind in _KINDS.items():
        if name in content and not isinstance(content[name], kind):
            raise ValueError(f"{name!r} must be {kind.__name__}; got {type(content[name]).__name__}")
    seconds = content.get("seconds", 0.0)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not abs(seconds) <= sys.float_info.max:  # NaN is not, nor an integer beyond floats
        raise ValueError("'seconds' is no number")
    if not isinstance(shards := content.get("shards"), list):
        raise ValueError("'shards' is no list")
    seen = set()
    for shard in shards:
        _check_shard(shard)
        if shard["file"] in seen:
            raise ValueError(f"the shard {shard['file']} is listed twice")
        seen.add(shard["file"])


def _check_shard(shard: Any) -> None:
    if not isinstance(shard, Mapping):
        raise ValueError("a shard is no object")
    if not isinstance(shard.get("file"), str) or not PART.fullmatch(shard["file"]):
        raise ValueError(f"{str(shard.get('file'))[:80]!r} is no name of a shard")
    for name in ("rows", "bytes"):
        if isinstance(shard.get(name), bool) or not isinstance(shard.get(name), int) or shard[name] < 0:
            raise ValueError(f"the shard {shard['file']} has no count of {name}")
    if shard.get("footer") == "":  # of the first format; then nothing is read before `sha256` is compared
        shard = {**shard, "footer": "0" * 64}
    for name in ("ids", "sha256", "footer"):
        if not isinstance(shard.get(name), str) or not _DIGEST.fullmatch(shard[name]):
            raise ValueError(f"{name!r} of the shard {shard['file']} is no digest")


def check_columns(found: pa.Schema, expected: pa.Schema) -> None:
    """Check the columns that a shard says it has; those that it does not have may be newer than it.

    Raises:
        ValueError: if one is of another type.
    """
    types = dict(zip(found.names, found.types, strict=True))
    for field in expected:
        if types.get(field.name, field.type) != field.type:
            raise ValueError(f"its column {field.name!r} is {types[field.name]}, not {field.type}")
