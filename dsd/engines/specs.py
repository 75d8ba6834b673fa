"""What a spec says of the rows that come of it, apart from how the work is done."""

import re
from collections.abc import Mapping
from typing import Any

HOW_NOT_WHAT = frozenset(
    {
        "api_base", "api_key", "batch_size", "cache", "cache_size", "concurrency", "deadline_s", "device",
        "local_files_only", "max_cost_usd", "num_workers", "offload", "price", "retries", "rpm",
        "run_deadline_s", "timeout_s", "tpm",
    }
)  # fmt: skip
"""Arguments of plug-ins that do not change what they make: a stage goes on with other ones."""


def what(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without `HOW_NOT_WHAT`, those of the specs within it too."""
    return {key: _what(value) for key, value in spec.items() if key not in HOW_NOT_WHAT}


def _what(value: Any) -> Any:
    if isinstance(value, Mapping):
        return what(value)
    if isinstance(value, list | tuple):
        return [_what(item) for item in value]
    return value


def file_name(name: str) -> str:
    """A name that can be a folder's."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "unnamed"
