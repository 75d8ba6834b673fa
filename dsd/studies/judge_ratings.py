"""What people said of generated pictures, and scores that are known: what judges are compared with."""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dsd.judges import Case
from dsd.metrics.functional.agreement import Level
from dsd.studies.judge_columns import COMBINE, ONE, PICTURES, checked, names_in
from dsd.studies.judge_pictures import columns_in, loader
from dsd.studies.reading import table_rows

Column = Float[np.ndarray, " items"]

MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "-"})
_MAX_FILE_BYTES = 500 * 2**20
_SAMPLES_A_SUBJECT = 5

IMAGENHUB: Mapping[str, Any] = {
    "item": ["method", "sample"],
    "group": "method",
    "people": ["human1_sc", "human2_sc", "human3_sc"],
    "scores": {
        **{
            name: {"columns": [f"{name}_prompt", f"{name}_resemblance"], "combine": "min", "range": [0, 10]}
            for name in ("gpt4o", "gemini", "gpt4v")
        },
        "dino": "dino",
        "clip_i": "clip_i",
    },
}
"""The columns of ratings in the layout of `dsd/studies/imagenhub/ratings.csv`: people's semantic consistency,
beside the lower of a judge's two scores, as VIEScore compares them."""

IMAGENHUB_PICTURES: Mapping[str, str] = {"generated": "{method}/{sample}", "reference": "input/{sample}"}
"""Where the pictures are in the folder `ImagenHub_Subject-Driven_IG` that ImagenHub shows them from."""

EMBEDDED = Path(__file__).with_name("imagenhub") / "ratings.csv"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A judge's or a metric's scores.

    Attributes:
        values: of each item; NaN where there is none.
        range: the scores that stand for the ends of the people's scale; None where no scale is known: then
            the lowest and the highest score that it gave.
        about: where they are from.
        higher_is_better: whether people should rate what has a high one highly; else scores are turned round
            before they are compared with people's.
    """

    values: Column
    range: tuple[float, float] | None = None
    about: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class RatedItems:
    """Pictures that people rated.

    Attributes:
        source: where they are from, in a few words.
        keys: what each is called.
        groups: which method made it, or another group to look at alone; "" for none.
        subjects: whom it shows: intervals are over subjects. The key, where that is not known.
        raters: what the people are called.
        people: their ratings; NaN where missing.
        low: lowest rating of their scale.
        high: highest rating of it.
        level: what their numbers mean.
        stored: scores by the names of judges and metrics.
        load: pictures of some items, by key, for judges that are asked and metrics; None if there are none.
        shows: what `load` gives of an item, beside the key: "generated", "reference", "truth", "prompt".
        units: what intervals are over, for the report.
    """

    source: str
    keys: Sequence[str]
    groups: Sequence[str]
    subjects: Sequence[str]
    raters: Sequence[str]
    people: Float[np.ndarray, "raters items"]
    low: float
    high: float
    level: Level = "interval"
    stored: Mapping[str, Scores]
    load: Callable[[Collection[str]], Iterator[Case]] | None = None
    shows: Collection[str] = ("generated", "reference", "prompt")
    units: str = "items"

    @property
    def digest(self) -> str:
        """A hash of the items and of what people said of them."""
        content = hashlib.sha256("\0".join([*self.keys, *self.groups, *self.raters]).encode())
        content.update(np.ascontiguousarray(self.people).tobytes())
        return content.hexdigest()[:16]


def of_table(
    path: Path,
    columns: Mapping[str, Any],
    *,
    images: Path | None = None,
    low: float | None = None,
    high: float | None = None,
    level: Level = "interval",
) -> RatedItems:
    """Ratings from a CSV or Parquet file: a row an item.

    Args:
        path: the file.
        columns: its columns: `people`, those of the raters; `item`, one or several that name the item
            together (by default the row's number); `group`; `subject`; `scores`, `{NAME: column}` or
            `{NAME: {columns: [...], combine: min, range: [0, 10], higher_is_better: true}}`; and for judges
            that are to be asked and metrics the pictures' files `generated`, `reference` (one or several) and
            `truth`, each a column or made of columns, such as "{method}/{sample}"; and `prompt`.
        images: the folder that files start from; by default `images` beside the table, or the table's own.
        low: lowest rating of the people's scale; the lowest that was given by default.
        high: highest rating of it; the highest that was given by default.
        level: what their numbers mean.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, a rating is no number or outside the scale, an item is there
            twice, or `columns` says nothing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There are no ratings in {path}: no such file. Check the path.")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; at most {_MAX_FILE_BYTES:,} are read.")
    asked = checked(columns)
    wanted = [*asked["item"], *asked["people"], *(asked[key] for key in ONE if asked[key])]
    wanted += [name for score in asked["scores"].values() for name in score["columns"]]
    shows = [key for key in (*PICTURES, "prompt") if asked[key]]
    wanted += [x for key in PICTURES for pattern in names_in(asked[key]) for x in columns_in(pattern)]
    rows = [row for _, row in table_rows(path, wanted)]
    if not rows:
        raise ValueError(f"{path} has no rows.")
    keys = [" / ".join(row[x] for x in asked["item"]) or str(i) for i, row in enumerate(rows, 1)]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(
            f"{path} has the item {twice!r} twice. Name all columns that tell items apart in `columns`, such "
            "as {item: [method, sample]}."
        )
    people = np.stack([_numbers(path, rows, name) for name in asked["people"]])
    if np.isnan(people).all():
        raise ValueError(f"{path} has no rating of people in the columns {', '.join(asked['people'])}.")
    ends = (
        float(np.nanmin(people)) if low is None else low,
        float(np.nanmax(people)) if high is None else high,
    )
    _check_scale(path, people, *ends)
    column = asked["subject"]
    subjects = [(row[column] if column else "") or f"\0{key}" for row, key in zip(rows, keys, strict=True)]
    return RatedItems(
        source=path.name,
        keys=keys,
        groups=[row[asked["group"]] if asked["group"] else "" for row in rows],
        subjects=subjects,
        raters=asked["people"],
        people=people,
        low=ends[0],
        high=ends[1],
        level=level,
        stored={name: _scores(path, rows, spec) for name, spec in asked["scores"].items()},
        load=loader(path, rows, keys, asked, images) if asked["generated"] else None,
        shows=shows,
        units="subjects" if column else "items",
    )


def of_imagenhub(path: Path = EMBEDDED, level: Level = "ordinal", images: Path | None = None) -> RatedItems:
    """Ratings in the layout of the embedded ones, `IMAGENHUB`: people's scale is 0, 0.5 and 1.

    The samples are five prompts for each of 30 subjects, in order, and both methods drew all of them.

    Args:
        path: the file; the embedded one by default.
        level: what people's numbers mean; ImagenHub takes them for an order.
        images: ImagenHub's folder of pictures, `input` and one for each method; None if it is not there.

    Raises:
        FileNotFoundError, ValueError: as `of_table`, and if a sample has no number.
    """
    columns = IMAGENHUB if images is None else {**IMAGENHUB, **IMAGENHUB_PICTURES}
    found = of_table(path, columns, images=images, low=0.0, high=1.0, level=level)
    numbers = [re.search(r"(\d+)\D*$", key) for key in found.keys]
    if None in numbers:
        raise ValueError(
            f"{path}: a sample is called sample_NUMBER in ImagenHub. Give `columns` of your own."
        )
    subjects = [f"subject {int(match[1]) // _SAMPLES_A_SUBJECT}" for match in numbers if match is not None]
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    return RatedItems(**{**fields, "source": "ImagenHub", "subjects": subjects, "units": "subjects"})


def _numbers(path: Path, rows: Sequence[Mapping[str, str]], name: str) -> Column:
    found = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        text = row[name].strip()
        if text.lower() in MISSING:
            continue
        try:
            found[i] = float(text)
        except ValueError as error:
            raise ValueError(f"{path}, row {i + 1}, column {name!r}: {text!r} is no number.") from error
        if not math.isfinite(found[i]):
            raise ValueError(f"{path}, row {i + 1}, column {name!r}: {text!r} is not finite.")
    return found


def _check_scale(path: Path, people: np.ndarray, low: float, high: float) -> None:
    if not low < high:
        raise ValueError(
            f"{path}: people's scale goes from {low:g} to {high:g}. Give `low` and `high`; if all ratings "
            "are the same, there is nothing to agree with."
        )
    outside = (people < low) | (people > high)
    if outside.any():
        _, item = np.argwhere(outside)[0]
        raise ValueError(
            f"{path}, row {item + 1}: people's rating {people[outside][0]:g} is outside the scale from "
            f"{low:g} to {high:g}. Give `low` and `high`."
        )


def _scores(path: Path, rows: Sequence[Mapping[str, str]], spec: Mapping[str, Any]) -> Scores:
    names, combine, ends = spec["columns"], spec["combine"], spec["range"]
    values = COMBINE[combine](np.stack([_numbers(path, rows, name) for name in names]))
    if ends is not None and ((values < ends[0]) | (values > ends[1])).any():
        wrong = int(np.argwhere((values < ends[0]) | (values > ends[1]))[0][0])
        raise ValueError(
            f"{path}, row {wrong + 1}: the score {values[wrong]:g} of {', '.join(names)} is outside its "
            f"range from {ends[0]:g} to {ends[1]:g}."
        )
    about = names[0] if len(names) == 1 else f"{combine} of {' and '.join(names)}"
    return Scores(
        values=values, range=ends, about=f"column {about}", higher_is_better=spec["higher_is_better"]
    )
