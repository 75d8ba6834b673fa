"""DreamBench++ (Peng et al., 2024, arXiv 2406.16855): 150 pictures with nine prompts each."""

import re
from pathlib import Path

from dsd.evaluation.benchmarks.base import Benchmark, BenchmarkCase, folder_of, text_of
from dsd.evaluation.benchmarks.pictures import check_picture

COUNTS = {"animal": 45, "human": 20, "object": 65, "style": 20}
"""Pictures in each category."""
KINDS = ("photorealistic",) * 4 + ("style",) * 3 + ("imaginative",) * 2
"""What prompt 0, 1, ... of a picture asks for."""
ALIASES = {"magic_cube": "rubik's_cube"}
"""Subjects that the authors' files call by two names: the ratings say the first, the pictures the second."""
_FOLDERS = {name: name if name in ("object", "style") else f"live_subject/{name}" for name in COUNTS}
_COLLECTION = re.compile(r"(live_subject_animal|live_subject_human|object|style)_(\d+)_(.+)", re.DOTALL)
_NUMBERED = re.compile(r"(\d+)(?:_\d+)?")


class DreamBenchPlus(Benchmark):
    """The 1,350 cases, from the folder that its authors hand out.

    A case's key is `<collection>-<prompt>`, such as `object_07_spider-man-3`. What they hand out is
    `data/images/{live_subject/animal,live_subject/human,object,style}/NN.jpg` and, beside it,
    `data/captions/.../NN.txt`: the subject's name in the first line and nine prompts below it.

    Args:
        root: the folder `data`, or the one that holds it.
        complete: whether all 150 pictures must be there; without it, those that are there are taken.

    Raises:
        FileNotFoundError: if there is no such folder.
    """

    title = "DreamBench++"
    source = "Peng et al., DreamBench++, ICLR 2025, arXiv 2406.16855"
    published = ("dreambench++", "dsd", "dsd_debiased")

    def __init__(self, root: str | Path, complete: bool = True) -> None:
        folder = folder_of(root, "`images` and `captions` of DreamBench++")
        self.root = folder / "data" if not (folder / "images").is_dir() else folder
        self.complete = complete

    def load(self) -> list[BenchmarkCase]:
        """All cases, by category, picture and prompt.

        Raises:
            FileNotFoundError: if the pictures, a caption file or, with `complete`, a picture is missing.
            ValueError: if a picture cannot be read, or a caption file has not a name and nine prompts.
        """
        cases = []
        for category, folder in _FOLDERS.items():
            pictures = sorted((self.root / "images" / folder).glob("*.jpg"))
            self._check_number(category, folder, pictures)
            for picture in pictures:
                cases += self._cases(category, folder, picture)
        return cases

    def canonical(self, key: str) -> str:
        """The key of this loader for a case's spelling in the authors' files; see `canonical_key`.

        Raises:
            ValueError: if it is no key of a case; with the number of a picture behind it, it is none.
        """
        if "_" in key.rpartition("-")[2]:
            raise ValueError(f"{key!r} is the key of a picture.")
        return canonical_key(key)

    def _check_number(self, category: str, folder: str, pictures: list[Path]) -> None:
        captions = sorted((self.root / "captions" / folder).glob("*.txt"))
        stems = {path.stem for path in pictures}
        alone = sorted({path.stem for path in captions} ^ stems)
        if alone:
            missing = "captions" if alone[0] in stems else "images"
            ending = "txt" if missing == "captions" else "jpg"
            raise FileNotFoundError(
                f"{self.root / missing / folder / alone[0]}.{ending} is missing: a picture and its captions "
                "have the same name."
            )
        if self.complete and len(pictures) != COUNTS[category]:
            raise FileNotFoundError(
                f"{self.root / 'images' / folder} has {len(pictures)} pictures (.jpg), not "
                f"{COUNTS[category]}. Get the rest, or take what is there with complete: false."
            )

    def _cases(self, category: str, folder: str, picture: Path) -> list[BenchmarkCase]:
        captions = self.root / "captions" / folder / f"{picture.stem}.txt"
        lines = [line.strip() for line in text_of(captions).strip().splitlines()]
        if len(lines) != 1 + len(KINDS) or not all(lines):
            raise ValueError(
                f"{captions} has {len(lines)} lines, of which {lines.count('')} are empty; it must have the "
                f"subject's name and {len(KINDS)} prompts."
            )
        check_picture(picture)
        name = lines[0].lower().replace(" ", "_")
        collection = f"{folder.replace('/', '_')}_{picture.stem}_{ALIASES.get(name, name)}"
        return [
            BenchmarkCase(
                key=f"{collection}-{index}",
                prompt=prompt,
                pictures=(picture,),
                subject=collection,
                subject_name=lines[0],
                category=category,
                kind=KINDS[index],
            )
            for index, prompt in enumerate(lines[1:])
        ]


def split_key(key: str) -> tuple[str, int]:
    """Collection and number of the prompt of a key. Names hold hyphens too, so the last one counts; the
    number of a picture, `_0` behind the prompt's, is left out.

    Raises:
        ValueError: if it is no such key.

    Example:
        >>> split_key("object_07_spider-man-3")
        ('object_07_spider-man', 3)
        >>> split_key("style_02_ukiyo-e-8_0")
        ('style_02_ukiyo-e', 8)
    """
    collection, hyphen, number = key.rpartition("-")
    found = _NUMBERED.fullmatch(number)
    if not hyphen or found is None or int(found[1]) >= len(KINDS) or not _COLLECTION.fullmatch(collection):
        raise ValueError(
            f"{key!r} is no key of DreamBench++: '<category>_<number>_<subject>-<prompt>', prompts from 0 to "
            f"{len(KINDS) - 1}, such as 'object_07_spider-man-3'."
        )
    return collection, int(found[1])


def canonical_key(key: str) -> str:
    """One spelling of all: the subject's alias resolved, and no number of a picture at the end.

    Raises:
        ValueError: as `split_key`.

    Example:
        >>> canonical_key("object_20_magic_cube-1_0")
        "object_20_rubik's_cube-1"
    """
    collection, number = split_key(key)
    found = _COLLECTION.fullmatch(collection)
    assert found is not None
    return f"{found[1]}_{found[2]}_{ALIASES.get(found[3], found[3])}-{number}"


def category_of(key: str) -> str:
    """The category that a key says. From the front: "human" may also stand in a subject's name.

    Raises:
        ValueError: as `split_key`.

    Example:
        >>> category_of("object_03_humanoid_robot-0")
        'object'
    """
    found = _COLLECTION.fullmatch(split_key(key)[0])
    assert found is not None
    return found[1].removeprefix("live_subject_")
