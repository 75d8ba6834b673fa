"""A stranger's package: one curator under a free name, and one under a name that another package has too."""

from dsd.curators import Curator, Pair, Verdict


class FirstLetterCurator(Curator):
    """Keeps pairs whose caption begins with a letter; stands for whatever strangers think of."""

    def __init__(self, letter: str = "a") -> None:
        self.letter = letter

    def judge(self, pair: Pair) -> Verdict:
        return Verdict(keep=pair.caption.startswith(self.letter), reason=f"caption {pair.caption!r}")
