"""The DreamBooth data set (Ruiz et al., CVPR 2023): 30 subjects, 25 prompts each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsd.evaluation.benchmarks.base import Benchmark, BenchmarkCase, folder_of, text_of
from dsd.evaluation.benchmarks.pictures import ENDINGS, check_picture

INDEX = "prompts_and_classes.txt"
LIVE_CLASSES = ("cat", "dog")
"""Classes of subjects that get the prompts for living beings; all others are objects."""
NUM_SUBJECTS, NUM_PROMPTS = 30, 25
_PROMPT = re.compile(r"""^(['"])(?P<text>.*)\1\.format\(\s*unique_token\s*,\s*class_token\s*\)\s*,?$""")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What `prompts_and_classes.txt` says.

    Attributes:
        classes: the class of each subject.
        objects: prompts for objects, with {0} for the unique token and {1} for the class.
        live: prompts for living subjects, likewise.
    """

    classes: Mapping[str, str]
    objects: tuple[str, ...]
    live: tuple[str, ...]


class DreamBooth(Benchmark):
    """The 750 cases, from the folder `dataset` of github.com/google/dreambooth.

    It holds one folder a subject and `prompts_and_classes.txt`. Prompts are said without a unique token
    ("a backpack in the jungle"), which only a tuned model knows. A case's key is `<subject>-<prompt>`; the
    kinds of prompts are "recontextualization" (a place), "accessorization" (for living subjects: a hat, an
    outfit) and "property modification" (the last five: red, purple, shiny, wet, cube shaped).

    Args:
        root: the folder.
        token: put before the class, for tuned models: "sks".
        references: how many pictures of a subject are given; None for all. Methods that take one are given
            the first.
        complete: whether all 30 subjects must be there; without it, those that are there are taken.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if `references` is below 1.
    """

    title = "DreamBooth"
    source = "Ruiz et al., DreamBooth, CVPR 2023, arXiv 2208.12242"
    images_per_prompt = 4

    def __init__(
        self, root: str | Path, token: str = "", references: int | None = None, complete: bool = True
    ) -> None:
        if references is not None and references < 1:
            raise ValueError(f"`references` must be at least 1; got {references}.")
        folder = folder_of(root, f"the subjects and {INDEX} of google/dreambooth")
        self.root = (
            folder if (folder / INDEX).is_file() or not (folder / "dataset").is_dir() else folder / "dataset"
        )
        self.token, self.references, self.complete = token.strip(), references, complete

    def load(self) -> list[BenchmarkCase]:
        """All cases, by subject and prompt.

        Raises:
            FileNotFoundError: if the index, a subject's pictures or, with `complete`, a subject is missing.
            ValueError: if the index cannot be understood, or a picture cannot be read.
        """
        said = parse_prompts(text_of(self.root / INDEX), str(self.root / INDEX))
        if self.complete and len(said.classes) != NUM_SUBJECTS:
            raise ValueError(f"{self.root / INDEX} names {len(said.classes)} subjects, not {NUM_SUBJECTS}.")
        cases = []
        for subject, word in said.classes.items():
            if (self.root / subject).is_dir():
                cases += self._cases(subject, word, said)
            elif self.complete:
                raise FileNotFoundError(
                    f"There is no folder {self.root / subject}. Get it, or take what is there with "
                    "complete: false."
                )
        return cases

    def _cases(self, subject: str, word: str, said: Prompts) -> list[BenchmarkCase]:
        folder = self.root / subject
        pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        if not pictures:
            raise FileNotFoundError(f"The folder {folder} holds no picture.")
        for picture in pictures:
            check_picture(picture)
        live = word in LIVE_CLASSES
        return [
            BenchmarkCase(
                key=f"{subject}-{index}",
                prompt=" ".join(prompt.format(self.token, word).split()),
                pictures=tuple(pictures[: self.references]),
                subject=subject,
                subject_name=word,
                category="live subject" if live else "object",
                kind=_kind(index, live),
            )
            for index, prompt in enumerate(said.live if live else said.objects)
        ]


def parse_prompts(text: str, name: str = INDEX) -> Prompts:
    """Read `prompts_and_classes.txt`. It is a list of `subject,class` below "Classes" and two Python lists of
    `'...'.format(unique_token, class_token)` below "Object Prompts" and "Live Subject Prompts"; nothing in it
    is run.

    Args:
        text: what is in the file.
        name: what to call the file in messages.

    Raises:
        ValueError: if a part is missing, a line is none of these, or a subject is named twice.
    """
    classes: dict[str, str] = {}
    lists: dict[str, list[str]] = {"Object Prompts": [], "Live Subject Prompts": []}
    part = ""
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line in ("", "Prompts", "subject_name,class", "prompt_list = [", "]"):
            continue
        if line in ("Classes", *lists):
            part = line
        elif part == "Classes" and line.count(",") == 1:
            subject, word = (item.strip() for item in line.split(","))
            if subject in classes:
                raise ValueError(f"Line {number} of {name} names the subject {subject!r} again.")
            if not subject or not word or Path(subject).name != subject or subject.startswith("."):
                raise ValueError(f"Line {number} of {name} is no subject and class: {line[:80]!r}.")
            classes[subject] = word
        elif part in lists and (found := _PROMPT.match(line)) and _fills(found["text"]):
            lists[part].append(found["text"])
        else:
            raise ValueError(
                f"Line {number} of {name} is not understood: {line[:80]!r}. Below 'Classes' stand "
                "'subject,class', below 'Object Prompts' and 'Live Subject Prompts' "
                "\"'a {0} {1} ...'.format(unique_token, class_token),\"."
            )
    for part, prompts in lists.items():
        if len(prompts) != NUM_PROMPTS:
            raise ValueError(
                f"{name} has {len(prompts)} prompts below {part!r}; there must be {NUM_PROMPTS}."
            )
    if not classes:
        raise ValueError(f"{name} names no subject below 'Classes'.")
    return Prompts(
        classes=classes, objects=tuple(lists["Object Prompts"]), live=tuple(lists["Live Subject Prompts"])
    )


def _kind(index: int, live: bool) -> str:
    """What a prompt asks for, in the paper's words: 20 + 5 for objects, 10 + 10 + 5 for living subjects."""
    if index >= NUM_PROMPTS - 5:
        return "property modification"
    return "accessorization" if live and index >= 10 else "recontextualization"


def _fills(prompt: str) -> bool:
    """Whether it has both places and no other: `format` must not reach into objects."""
    return sorted(re.findall(r"\{.*?\}", prompt)) == ["{0}", "{1}"] and prompt.count(
        "{"
    ) == 2 == prompt.count("}")
