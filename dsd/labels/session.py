"""One person's way through the pairs: what to show next, and what has been said."""

import threading
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from itertools import chain
from typing import Any, Literal

from PIL import Image

from dsd.data.store import Run
from dsd.labels.choice import shuffled
from dsd.labels.store import LABELS, LabelFile, LabelName

Side = Literal["reference", "target"]

_MAX_SIDE_PX = 1536  # what a screen shows; larger pictures are scaled down
_MAX_TEXT = 1000  # characters of a caption or a subject that are shown


class Session:
    """The pairs that one person labels, in this person's own order. Safe to use from several threads.

    Args:
        run: where the pairs are.
        person: who labels; see `dsd.labels.store.person_name`.
        ids: the pairs to show.
        seed: of the order.

    Attributes:
        ids: the pairs in the order in which they are shown.
        labels: where the labels go.

    Raises:
        ValueError: if `person` is no name.
    """

    def __init__(self, run: Run, person: str, ids: Sequence[str], seed: int = 0) -> None:
        self.run, self.labels = run, LabelFile(run, person)
        self.ids = shuffled(ids, self.labels.person, seed)
        self._places = {pair_id: place for place, pair_id in enumerate(self.ids)}
        self._texts = self._read_texts()
        self._lock = threading.Lock()  # a table is read by one thread at a time

    def state(self, place: int | None = None) -> dict[str, Any]:
        """What the page shows, as JSON has it.

        Args:
            place: of the pair in the order, from 0; by default the first one without a label.

        Returns:
            `person`, `run`, `total` pairs, how many are `done`, `counts` of each label, and `pair`: its `id`,
            `place`, `caption`, `subject`, `kind` and `label`, if it has one; None when all are done. `next`
            is the id of the pair that follows it.

        Raises:
            LookupError: if there is no such place.
        """
        with self._lock:
            said = self._said()
            if place is None:
                place = self._without_label(said, 0)
            elif not 0 <= place < len(self.ids):
                raise LookupError(f"There is no pair number {place}; there are {len(self.ids)}, from 0 on.")
            following = None if place is None else self._without_label(said, place + 1, leave_out=place)
            counts = Counter(said.values())
            return {
                "person": self.labels.person,
                "run": self.run.path.name,
                "total": len(self.ids),
                "done": len(said),
                "counts": {label: counts[label] for label in LABELS},
                "pair": None if place is None else self._pair(place, said),
                "next": None if following is None else self.ids[following],
            }

    def save(self, pair_id: str, label: LabelName, seconds: float | None = None) -> dict[str, Any]:
        """Save a label; returns the state with the next pair that has none, after this one if possible.

        Raises:
            LookupError: if the pair is not among those that are shown.
            ValueError: if the label or the seconds are not allowed.
            OSError: explained, if it could not be written.
        """
        place = self._places.get(pair_id)
        if place is None:
            raise LookupError(f"There is no pair {pair_id!r} among the {len(self.ids)} that are shown.")
        with self._lock:
            self.labels.add(pair_id, label, seconds)
            following = self._without_label(self._said(), place + 1)
        return self.state(following)

    def picture(self, pair_id: str, side: Side) -> bytes:
        """A picture of a pair as PNG, scaled down to what a screen shows.

        Raises:
            LookupError: if the pair is not among those that are shown.
            ManifestError: if its shard is damaged.
        """
        if pair_id not in self._places:
            raise LookupError(f"There is no pair {pair_id!r} among the {len(self.ids)} that are shown.")
        with self._lock:
            pair = self.run.pairs[pair_id]
        image: Image.Image = getattr(pair, side)
        if image.mode not in ("L", "RGB", "RGBA"):
            image = image.convert("RGB")
        if max(image.size) > _MAX_SIDE_PX:
            image.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _said(self) -> dict[str, LabelName]:
        """What this person says of the pairs that are shown."""
        return {key: label.label for key, label in self.labels.read().items() if key in self._places}

    def _without_label(
        self, said: dict[str, LabelName], start: int, leave_out: int | None = None
    ) -> int | None:
        """The first place without a label from `start` on, or else from the beginning."""
        places = chain(range(start, len(self.ids)), range(min(start, len(self.ids))))
        return next((p for p in places if self.ids[p] not in said and p != leave_out), None)

    def _pair(self, place: int, said: dict[str, LabelName]) -> dict[str, Any]:
        pair_id = self.ids[place]
        return {"id": pair_id, "place": place, **self._texts[pair_id], "label": said.get(pair_id)}

    def _read_texts(self) -> dict[str, dict[str, str]]:
        """What is written of each pair; without its pictures, of which one may be damaged."""
        texts = {}
        columns = self.run.pairs.columns("id", "caption", "subject", "kind")
        for batch in columns.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                pair_id = row.pop("id")
                if pair_id in self._places:
                    texts[pair_id] = {name: _short(text) for name, text in row.items()}
        return texts


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
