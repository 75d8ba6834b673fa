"""A curator for dsd in a package of its own."""

from PIL import ImageFilter, ImageOps, ImageStat

from dsd.curators import Curator, Pair, Verdict


class SharpnessCurator(Curator):
    """Drop a pair whose blurrier panel has an edge variance under `floor` (grey levels squared)."""

    def __init__(self, floor: float = 60.0) -> None:
        self.floor = floor

    def judge(self, pair: Pair) -> Verdict:
        """Keep the pair if both panels have sharp edges."""
        edges = [panel.convert("L").filter(ImageFilter.FIND_EDGES) for panel in (pair.reference, pair.target)]
        score = min(
            ImageStat.Stat(ImageOps.crop(edge, 1)).var[0] for edge in edges
        )  # the filter skips the rim
        return Verdict(keep=score >= self.floor, score=score, reason=f"edge variance {score:.0f}")
