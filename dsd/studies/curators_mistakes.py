"""The worst mistakes of each curator: pictures side by side, with the score and the reason."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from dsd.evaluation.page import Section, data_uri
from dsd.extractors import rgb
from dsd.studies.curators_pairs import LabelledPairs
from dsd.studies.curators_results import Verdicts

_SIDE_PX = 168
_SHOWN_PX = 112
_SMALL_PX = 96  # pictures up to this size are shown pixel by pixel
_LONGEST_REASON = 600

_Thumbnail = tuple[str, int, int]  # a `data:` address, with its width and height in px


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """What one curator got wrong, worst first, by place among the labels.

    Attributes:
        accepted: pairs of different subjects that it accepted, highest score first.
        rejected: pairs of one subject that it rejected, lowest score first.
    """

    accepted: Sequence[int]
    rejected: Sequence[int]


def mistakes(pairs: LabelledPairs, verdicts: Verdicts) -> Mistakes:
    """All mistakes of a curator. Those without a score come last; equals keep the order of the pairs."""

    def first(place: int, sign: int) -> float:
        score = verdicts.timed[place].verdict.score
        return math.inf if score is None or math.isnan(score) else sign * score

    wrong = [int(i) for i in verdicts.places if verdicts.timed[i].verdict.accepted != pairs.labels[i].same]
    accepted, rejected = ([i for i in wrong if pairs.labels[i].same is same] for same in (False, True))
    return Mistakes(
        accepted=sorted(accepted, key=lambda place: first(place, -1)),
        rejected=sorted(rejected, key=lambda place: first(place, 1)),
    )


def sections(
    pairs: LabelledPairs, verdicts: Sequence[Verdicts], count: int, level: str = "Worst mistakes of"
) -> list[Section]:
    """A section a curator, with at most `count` mistakes of each kind.

    Args:
        pairs: the labelled pairs.
        verdicts: of every curator.
        count: of each kind.
        level: what the headings begin with.
    """
    all_of = {x.entry.name: mistakes(pairs, x) for x in verdicts}
    shown = {
        pairs.labels[place].pair_id
        for found in all_of.values()
        for place in (*found.accepted[:count], *found.rejected[:count])
    }
    pictures = {
        pair_id: (_thumbnail(pair.reference), _thumbnail(pair.target), pair.subject)
        for pair_id, pair in pairs.load(shown)
    }
    made = []
    for x in verdicts:
        found = all_of[x.entry.name]
        sides = [
            (kind, title, len(places), [_shown(pairs, x, place, pictures) for place in places[:count]])
            for kind, title, places in (
                ("dropped", "Accepted, though different", found.accepted),
                ("kept", "Rejected, though the same", found.rejected),
            )
        ]
        made.append(Section(template="mistakes", title=f"{level} {x.entry.name}", data={"sides": sides}))
    return made


def _shown(
    pairs: LabelledPairs,
    verdicts: Verdicts,
    place: int,
    pictures: dict[str, tuple[_Thumbnail, _Thumbnail, str]],
) -> dict[str, Any]:
    label, verdict = pairs.labels[place], verdicts.timed[place].verdict
    reference, target, subject = pictures[label.pair_id]
    subjects = " and ".join(label.subjects)
    reason = verdict.reason
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[: _LONGEST_REASON - 1]}\N{HORIZONTAL ELLIPSIS}"
    return {
        "pictures": [
            (name, uri, round(_SHOWN_PX * height / width))
            for name, (uri, width, height) in (("Reference", reference), ("Target", target))
        ],
        "width": _SHOWN_PX,
        "score": "no score" if verdict.score is None else f"{verdict.score:.3f}",
        "reason": reason,
        "subjects": subjects,
        "about": "; ".join(part for part in (label.group, subject or subjects) if part)[:_LONGEST_REASON],
    }


def _thumbnail(image: Image.Image) -> _Thumbnail:
    """Small pictures exactly, photographs as a small JPEG."""
    image = rgb(image)
    if max(image.size) <= _SMALL_PX:
        return data_uri(image), *image.size
    image.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", *image.size
