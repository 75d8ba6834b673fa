"""What comes in: pairs as others have written them, bounded and checked, or the reason why one is refused."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from PIL import Image, ImageOps

from dsd.opening import decode_image
from dsd.types import STATUSES, Pair, Status, Verdict

MAX_TEXT = 100_000
"""Characters of a caption, a reason or an answer."""
MAX_CURATORS = 64
_STORED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TEXTS = ("caption", "subject", "kind", "grid_id", "source")
_PANELS = ("reference_panel", "target_panel")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A pair of the source.

    Attributes:
        where: its place in the source, for messages.
        pair: the pair.
        verdicts: on it, by curator.
        claimed_id: the id that the source gives it; None if it gives none.
    """

    where: str
    pair: Pair
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    claimed_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row of the source that is no pair.

    Attributes:
        where: its place.
        reason: why, in words.
    """

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a source is read.

    Attributes:
        name: what the source is called in pairs that do not say where they come from.
        columns: where `reference`, `target` and `caption` stand, instead of the layout's own places.
        padding: of Subjects200K: pixels around and between the pictures; None to find out.
        min_quality: of Subjects200K: the lowest rating, 0 to 5, of a pair that is accepted.
    """

    name: str
    columns: Mapping[str, str] | None = None
    padding: int | None = None
    min_quality: int = 5


class Reader(Protocol):
    """What reads one layout."""

    def __call__(self, source: Path, options: Options) -> Iterator[Found | Refused]:
        """All rows, in a fixed order."""


def picture(data: Any, what: str) -> Image.Image:
    """A picture from its file's content, upright and in a mode that is stored.

    Raises:
        ValueError: if it is none, damaged or too large; see `dsd.opening`.
    """
    if isinstance(data, Mapping):
        if data.get("bytes") is None and data.get("path"):
            raise ValueError(f"The {what} is not in the row, which names a file instead; that is not read.")
        data = data.get("bytes")
    if not isinstance(data, bytes):
        raise ValueError(f"The {what} is missing.")
    image = ImageOps.exif_transpose(decode_image(data, f"({what})"))
    return image if image.mode in _STORED_MODES else image.convert("RGB")


def text(value: Any, what: str, default: str = "") -> str:
    """A text of bounded length; `default` if there is none.

    Raises:
        ValueError: if it is no text or too long.
    """
    if value is None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"The {what} is no text: {str(value)[:80]!r}.")
    if len(value) > MAX_TEXT:
        raise ValueError(f"The {what} has {len(value):,} characters; at most {MAX_TEXT:,} are taken.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The {what} is no valid Unicode: {error}.") from error
    return value


def fields(row: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """What a pair holds beside its pictures, from a row's fields of the same names.

    Raises:
        ValueError: if one has the wrong type or is too long.
    """
    defaults = {"kind": "character", "source": options.name}
    found: dict[str, Any] = {name: text(row.get(name), name, defaults.get(name, "")) for name in _TEXTS}
    for name, default in zip(_PANELS, (0, 1), strict=True):
        value = default if row.get(name) is None else row[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise ValueError(f"The {name} is no number of a panel: {str(value)[:80]!r}.")
        found[name] = value
    return found


def claimed(row: Mapping[str, Any]) -> str | None:
    """The id that a row has, as far as it is one."""
    value = row.get("id")
    return value if isinstance(value, str) and value else None


def verdicts(value: Any) -> dict[str, Verdict]:
    """Verdicts by curator, from a list of objects, or from such a list as JSON.

    Raises:
        ValueError: if it is something else, or too much.
    """
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = json.loads(text(value, "verdicts"))
    if not isinstance(value, list) or len(value) > MAX_CURATORS:
        raise ValueError(f"The verdicts are no list of at most {MAX_CURATORS} objects.")
    return {name: verdict for name, verdict in map(_verdict, value)}


def _verdict(value: Any) -> tuple[str, Verdict]:
    if not isinstance(value, Mapping):
        raise ValueError("A verdict is no object.")
    name = text(value.get("curator"), "curator of a verdict")
    status = value.get("status")
    if not name or len(name.encode()) > 200 or status not in STATUSES:
        raise ValueError(
            f"A verdict needs a curator and a status of {', '.join(STATUSES)}; got {status!r:.80}."
        )
    return name, Verdict(
        status=cast(Status, status),
        score=_number(value.get("score"), "score"),
        reason=text(value.get("reason"), "reason of a verdict"),
        cost_usd=_number(value.get("cost_usd"), "cost_usd"),
        raw=text(value.get("raw"), "raw answer of a verdict"),
    )


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"The {what} of a verdict is no number: {str(value)[:80]!r}.")
    return float(value)


def shown(name: str) -> str:
    """A name from outside, as messages show it: short, and without control characters."""
    return name.encode("unicode_escape", "surrogateescape").decode("ascii", "replace")[:200]
