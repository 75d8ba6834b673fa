"""A stranger's package: a curator under a free name and under one that another package has too; a judge."""

from dsd.curators import Curator, Pair, Verdict
from dsd.judges import Case, Judge, Rating


class FirstLetterCurator(Curator):
    """Keeps pairs whose caption begins with a letter; stands for whatever strangers think of."""

    def __init__(self, letter: str = "a") -> None:
        self.letter = letter

    def judge(self, pair: Pair) -> Verdict:
        return Verdict(keep=pair.caption.startswith(self.letter), reason=f"caption {pair.caption!r}")


class LongPromptJudge(Judge):
    """Rates a picture by the length of its prompt, and knows none for an empty one."""

    rubric_name, low, high = "length", 0, 10
    free = True

    def rate(self, case: Case, run: int = 0) -> Rating:
        if not case.prompt:
            raise ValueError("there is no prompt")
        value = min(10, len(case.prompt.split()))
        return Rating(key=case.key, rubric=self.rubric_name, judge="a ruler", run=run, value=value)
