"""The small world as a benchmark: characters that nothing was trained on."""

from dsd.evaluation.benchmarks.base import Benchmark, BenchmarkCase
from dsd.evaluation.small_world import held_out


class SmallWorld(Benchmark):
    """Held-out characters in scenes, with what a perfect artist would draw; made, so it needs no folder.

    Args:
        characters: how many.
        scenes: how many new scenes of each.
        seed: of the characters.

    Raises:
        ValueError: if there are fewer than one character or scene, or too many scenes.
    """

    title = "Small world"
    source = "dsd.mini: drawn characters, whose identity is measured by geometry and colour"
    preservation = "identity"
    following = "scene"
    measures = ("small_world",)

    def __init__(self, characters: int = 64, scenes: int = 4, seed: int = 0) -> None:
        self._held_out = held_out(characters, scenes, seed)

    def load(self) -> list[BenchmarkCase]:
        """All cases, character by character; the kind of a case is its scene."""
        return [
            BenchmarkCase(
                key=f"character_{number:03d}-{index}",
                prompt=caption,
                pictures=(case.reference,),
                subject=f"character_{number:03d}",
                subject_name=caption.rsplit(",", 1)[0],
                kind=scene,
                truth=truth,
            )
            for number, case in enumerate(self._held_out)
            for index, (scene, caption, truth) in enumerate(
                zip(case.scenes, case.captions, case.truths, strict=True)
            )
        ]
