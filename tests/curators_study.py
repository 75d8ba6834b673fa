"""What the tests of the study of curators share: pairs whose captions say what is to be said of them."""

import csv

import numpy as np
from PIL import Image

from dsd.curators import Curator, Pair, Verdict
from dsd.studies import Label, LabelledPairs
from dsd.studies.curators_scores import Judged


def judged(n=300, seed=0, scale=1.0, step=None):
    """Noisy scores of pairs, and decisions that follow another noise; half as many positives."""
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.35
    scores = scale * (rng.normal(size=n) + 1.2 * same)
    if step is not None:
        scores = np.round(scores / step) * step
    return Judged(same=same, accepted=scores + rng.normal(size=n) * scale > 0.6 * scale, scores=scores)


class Scripted(Curator):
    """Says what the caption of a pair tells it to: a status and a score; counts what it judged."""

    def __init__(self, bias: float = 0.0, note: str = "because") -> None:
        self.bias, self.note, self.seen = bias, note, []

    def judge(self, pair):
        self.seen.append(pair.id)
        status, _, score = pair.caption.partition(" ")
        if status == "failed":
            raise RuntimeError("no connection")
        value = None if score == "none" else float(score) + self.bias
        return Verdict(status=status, score=value, reason=f"{self.note} {pair.subject}", cost_usd=0.25)


def picture(i):
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (48, 48, 3), dtype=np.uint8))


SAID = [
    *[(True, "accepted 0.9"), (True, "accepted 0.8"), (True, "rejected 0.3"), (True, "refused none")],
    *[(False, "rejected 0.1"), (False, "accepted 0.7"), (False, "rejected 0.2"), (False, "unparsable none")],
    *[(True, "accepted 0.6"), (False, "failed none"), (False, "accepted none"), (True, "rejected none")],
]


def scripted_pairs(subject="subject"):
    found = {}
    for i, (same, said) in enumerate(SAID):
        pair = Pair(
            reference=picture(2 * i), target=picture(2 * i + 1), caption=said, subject=f"{subject} {i}"
        )
        group = "same subject" if same else ("same class" if i % 2 else "other class")
        label = Label(pair_id=pair.id, same=same, group=group, subjects=(f"s{i % 4}",))
        found[pair.id] = (label, pair)
    return LabelledPairs(
        source="a script",
        truth="By hand.",
        labels=tuple(label for label, _ in found.values()),
        load=lambda ids: ((i, pair) for i, (_, pair) in found.items() if i in ids),
        hard="same class",
    )


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def picture_table(tmp_path):
    """Pictures in a folder, and a function that writes a table of pairs beside them."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        picture(100 + i).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "subjects.csv").write_text(
        "image,subject\n" + "".join(f"{i}.png,s{i // 2}\n" for i in range(6))
    )

    def write(*lines, head="reference,target,same_subject,kind"):
        (tmp_path / "pairs.csv").write_text("\n".join([head, *lines]) + "\n")
        return tmp_path / "pairs.csv"

    return write


GOOD = (
    "0.png,1.png,1,same subject",
    '2.png,4.png,0,"same class, other subject"',
    "1.png,5.png,0,other class",
)
