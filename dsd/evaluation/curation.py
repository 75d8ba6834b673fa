"""Does curation earn its keep? The share of truly consistent pairs before and after, by measurement."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from dsd.evaluation.measuring import measure_all
from dsd.mini.measure import SAME, identity
from dsd.mini.world import scene_of
from dsd.types import Pair, image_digest


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Counts of pairs; a pair is consistent if `measure.identity` of its pictures reaches `measure.SAME`.

    Attributes:
        pairs: how many there are.
        consistent: how many of them are consistent.
        kept: how many the curator accepted.
        kept_consistent: how many of those are consistent.
        grids: how many grids the pairs were cut from.
        grids_consistent: how many of them have no inconsistent pair.
        panels: how many panels have a caption that names a scene of the small world.
        panels_in_scene: how many of them show it.
    """

    pairs: int
    consistent: int
    kept: int
    kept_consistent: int
    grids: int
    grids_consistent: int
    panels: int
    panels_in_scene: int

    @property
    def before(self) -> float | None:
        """Share of consistent pairs among all."""
        return _share(self.consistent, self.pairs)

    @property
    def after(self) -> float | None:
        """Share of consistent pairs among the kept ones: the curator's precision."""
        return _share(self.kept_consistent, self.kept)

    @property
    def recall(self) -> float | None:
        """Share of the consistent pairs that were kept."""
        return _share(self.kept_consistent, self.consistent)

    def to_json(self) -> dict[str, Any]:
        """The counts, by name."""
        return asdict(self)


def consistency(
    pairs: Iterable[Pair], accepted: Sequence[bool], *, workers: int = 2, progress: str | None = None
) -> Consistency:
    """Measure all panels once, and count what a curator's verdicts did.

    Args:
        pairs: of small-world panels.
        accepted: whether the curator accepted each.
        workers: see `measure_all`.
        progress: see `measure_all`.

    Raises:
        ValueError: if there are not as many verdicts as pairs, or a panel is not 64 x 64 px.
    """
    images: dict[str, Image.Image] = {}
    rows = []
    for pair in pairs:
        shown = image_digest(pair.reference), image_digest(pair.target)
        images.setdefault(shown[0], pair.reference)
        images.setdefault(shown[1], pair.target)
        rows.append((*shown, pair.grid_id, pair.target_panel, _scene(pair.caption)))
    if len(rows) != len(accepted):
        raise ValueError(f"{len(accepted)} verdicts for {len(rows)} pairs. Give one for each.")
    measured = measure_all(list(images.values()), workers=workers, progress=progress)
    seen = dict(zip(images, measured, strict=True))
    same = [identity(seen[reference], seen[target]) >= SAME for reference, target, *_ in rows]
    grids: dict[str, bool] = {}
    panels: dict[tuple[str, int], bool] = {}
    for (_, target, grid_id, panel, scene), alike in zip(rows, same, strict=True):
        grids[grid_id] = grids.get(grid_id, True) and alike
        if scene is not None:
            panels[grid_id, panel] = seen[target].scene == scene
    return Consistency(
        pairs=len(rows),
        consistent=sum(same),
        kept=sum(accepted),
        kept_consistent=sum(a and s for a, s in zip(accepted, same, strict=True)),
        grids=len(grids),
        grids_consistent=sum(grids.values()),
        panels=len(panels),
        panels_in_scene=sum(panels.values()),
    )


def _scene(caption: str) -> str | None:
    """The scene that a caption names; None if it is not one of the small world's captions."""
    try:
        return scene_of(caption)
    except ValueError:
        return None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
