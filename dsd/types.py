"""The records that travel between stages: `GridPrompt`, `Grid`, `Pair` and `Verdict`.

A record is frozen: a stage returns a new one and never edits the one it was given. Its `id` is a hash of
everything in it, pixels included: the same content from the same origin has the same id on every machine.
"""

import hashlib
import json
from dataclasses import InitVar, dataclass, fields
from functools import cached_property
from typing import Any, Literal, cast, get_args

from PIL import Image

Status = Literal["accepted", "rejected", "refused", "unparsable", "failed"]
"""What became of a judgement. `refused`: a model would not answer; `unparsable`: its answer made no sense;
`failed`: the pair could not be judged at all (an unreadable picture, a lost connection)."""

STATUSES: tuple[str, ...] = get_args(Status)

_NOT_GIVEN = cast(Status, None)  # __post_init__ puts a status in its place


def image_digest(image: Image.Image) -> str:
    """SHA-256 (64 hexadecimal characters) of an image's mode, size, pixels and, if it has one, palette."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    palette = image.getpalette() if image.mode in ("P", "PA") else None
    if palette is not None:
        digest.update(bytes(palette))
    return digest.hexdigest()


def _record_id(record: "GridPrompt | Grid | Pair") -> str:
    """The first 20 hexadecimal characters of SHA-256 over the record's fields as canonical JSON."""
    content: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Image.Image):
            value = image_digest(value)
        elif isinstance(value, GridPrompt):
            value = value.id
        content[field.name] = value
    text = json.dumps([type(record).__name__, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True)
class GridPrompt:
    """A prompt that asks a teacher for one grid of pictures of one subject.

    Attributes:
        text: the whole prompt, as the teacher reads it.
        subject: what all panels show, in words: "a round red creature with horns".
        panels: a full caption of each panel alone, row by row; each names the subject. Empty where nobody
            wrote any: pairs made of such a grid have no caption.
        layout: rows x columns, e.g. "2x2".
        kind: what the subject is: "character", "object", "scene", ...
        writer: the registered name of the prompt writer.
        seed: what the writer's random choices came from; different for each prompt that a writer writes.
    """

    text: str
    subject: str
    panels: tuple[str, ...]
    layout: str = "2x2"
    kind: str = "character"
    writer: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("The prompt is empty. A grid prompt needs a `text` for the teacher to draw.")

    @cached_property
    def id(self) -> str:
        """20 hexadecimal characters that depend on every field."""
        return _record_id(self)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A picture of several panels that a teacher drew for one prompt.

    Attributes:
        image: all panels in one picture.
        prompt: what it was drawn from.
        seed: the seed of the noise it was drawn from.
        teacher: the registered name of the teacher, with its model where it has one.
    """

    image: Image.Image
    prompt: GridPrompt
    seed: int
    teacher: str

    @cached_property
    def id(self) -> str:
        """20 hexadecimal characters that depend on the pixels, the prompt and the origin."""
        return _record_id(self)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two pictures that should show the same subject: the student is given `reference` and learns to draw
    `target`.

    Attributes:
        reference: the picture that the student sees.
        target: the picture that it learns to draw.
        caption: what `target` shows, in words; empty if unknown.
        subject: what both show, in words.
        kind: what the subject is: "character", "object", "scene", ...
        grid_id: the grid that both were cut from; empty if there was none.
        reference_panel: which panel of the grid `reference` was, counted row by row from 0.
        target_panel: which panel of the grid `target` was.
        source: where the pair came from: a teacher or a data set.
    """

    reference: Image.Image
    target: Image.Image
    caption: str = ""
    subject: str = ""
    kind: str = "character"
    grid_id: str = ""
    reference_panel: int = 0
    target_panel: int = 1
    source: str = ""

    @cached_property
    def id(self) -> str:
        """20 hexadecimal characters that depend on the pixels, the caption and the origin."""
        return _record_id(self)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a curator says of one pair.

    Give either `status` or `keep`: `Verdict(keep=True)` is accepted and `Verdict(keep=False)` is rejected.

    Attributes:
        status: see `Status`.
        score: the curator's own measure, higher is better; None if it has none.
        reason: why, in words and numbers that a person can check.
        cost_usd: what the judgement cost; None if unknown.
        raw: the answer as it came, where a model gave it.
        outage: of "failed": whether it is not the pair, but whoever was to judge that is out of service. Not
            stored: a stage that meets many of these in a row stops and records none.
    """

    status: Status = _NOT_GIVEN
    score: float | None = None
    reason: str = ""
    cost_usd: float | None = None
    raw: str = ""
    outage: bool = False
    keep: InitVar[bool | None] = None

    def __post_init__(self, keep: bool | None) -> None:
        if (self.status is None) == (keep is None):
            raise ValueError(
                f"A verdict needs either `status` or `keep`; got status={self.status!r} and keep={keep!r}. "
                f"Give status= one of {', '.join(STATUSES)}, or keep=True or keep=False."
            )
        if keep is not None:
            object.__setattr__(self, "status", "accepted" if keep else "rejected")
        if self.status not in STATUSES:
            raise ValueError(f"Unknown verdict status {self.status!r}. Allowed: {', '.join(STATUSES)}.")

    @property
    def accepted(self) -> bool:
        """Whether the pair is to be kept."""
        return self.status == "accepted"
