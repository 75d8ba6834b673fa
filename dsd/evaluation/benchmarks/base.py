"""What a benchmark is: cases, each a reference and a prompt, in groups that are reported apart."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from PIL import Image

from dsd.evaluation.benchmarks.pictures import remembered
from dsd.registry import Recorded

MAX_PROMPT_CHARS = 4000


@dataclass(frozen=True, kw_only=True)
class BenchmarkCase:
    """One picture to be drawn.

    Attributes:
        key: its name, unique in the benchmark.
        prompt: what to draw.
        pictures: the subject, one picture or several: files, or images.
        subject: the subject's id. Intervals are clustered by it, since pictures of one subject stand or fall
            together.
        subject_name: the subject in words, for judges; empty if unknown.
        category: of the subject; empty for none.
        kind: of the prompt; empty for none.
        truth: what a perfect artist would draw, where that is known: a file, or an image.

    Raises:
        ValueError: if the key, the prompt or the subject is empty, the prompt is longer than 4,000
            characters, or there is no picture.
    """

    key: str
    prompt: str
    pictures: tuple[Path | Image.Image, ...] = field(repr=False)
    subject: str
    subject_name: str = ""
    category: str = ""
    kind: str = ""
    truth: Path | Image.Image | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("key", "prompt", "subject"):
            if not getattr(self, name).strip():
                raise ValueError(f"The case {self.key!r} has an empty {name}. Give it one.")
        if len(self.prompt) > MAX_PROMPT_CHARS:
            raise ValueError(
                f"The prompt of the case {self.key!r} has {len(self.prompt)} characters; at most "
                f"{MAX_PROMPT_CHARS} are taken."
            )
        if not self.pictures:
            raise ValueError(f"The case {self.key!r} has no picture of its subject.")

    @property
    def references(self) -> list[Image.Image]:
        """All pictures of the subject, as RGB, read when they are asked for.

        Raises:
            ValueError: if one of them cannot be read any more.
        """
        return [_opened(given) for given in self.pictures]

    @property
    def reference(self) -> Image.Image:
        """The first picture of the subject: what methods that take one are given."""
        return _opened(self.pictures[0])

    @property
    def true_picture(self) -> Image.Image | None:
        """`truth`, read when it is asked for."""
        return None if self.truth is None else _opened(self.truth)


class Benchmark(Recorded, ABC):
    """Cases to be drawn, loaded from a folder of this machine, or made.

    Attributes:
        title: what reports call it.
        source: where it comes from, for reports.
        preservation: the column of its own measures that says how well the subject is kept; empty for none.
        following: the column of its own measures that says how well the prompt is followed; empty for none.
        measures: names of the measures that it brings along, beside the user's metrics and judges.
        images_per_prompt: as its authors draw them.
        published: names of the published tables that belong to it; see `dsd.evaluation.published`.
    """

    title: ClassVar[str]
    source: ClassVar[str] = ""
    preservation: ClassVar[str] = ""
    following: ClassVar[str] = ""
    measures: ClassVar[tuple[str, ...]] = ()
    images_per_prompt: ClassVar[int] = 1
    published: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def load(self) -> list[BenchmarkCase]:
        """All cases, in a fixed order.

        Raises:
            FileNotFoundError: if a part is missing.
            ValueError: if a part is damaged.
        """

    def canonical(self, key: str) -> str:
        """The key that another spelling of it stands for, in files that were made elsewhere."""
        return key


def cases_of(benchmark: Benchmark, limit: int | None = None) -> list[BenchmarkCase]:
    """The benchmark's cases, with unique keys; with a limit, as many of them as that, spread by chance.

    The choice hangs on the keys alone, so that those of a smaller limit are among those of a larger one.

    Raises:
        FileNotFoundError, ValueError: as `Benchmark.load`; or if there is no case, a key is there twice, or
            `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1; got {limit}.")
    cases = benchmark.load()
    if not cases:
        raise ValueError(f"{benchmark.title} has no case.")
    twice = [key for key, count in Counter(case.key for case in cases).items() if count > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} keys are there more than once, such as {twice[0]!r}. Make them unique."
        )
    if limit is None or limit >= len(cases):
        return cases
    chosen = set(sorted((case.key for case in cases), key=_scattered)[:limit])
    return [case for case in cases if case.key in chosen]


def digest_of(cases: Sequence[BenchmarkCase]) -> str:
    """A hash of what the cases ask for: keys, prompts and subjects, without the pictures."""
    digest = hashlib.sha256()
    for case in cases:
        for part in (case.key, case.prompt, case.subject, case.category, case.kind):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def folder_of(root: str | Path, what: str) -> Path:
    """A folder that must be there.

    Raises:
        FileNotFoundError: if it is not.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder {path}. Give --root, the folder with {what}.")
    return path


def text_of(path: Path, max_bytes: int = 2**20) -> str:
    """A text file, as UTF-8.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is larger than `max_bytes`, or no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; at most {max_bytes:,} are read.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}.") from error


def _opened(given: Path | Image.Image) -> Image.Image:
    return remembered(given) if isinstance(given, Path) else given


def _scattered(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
