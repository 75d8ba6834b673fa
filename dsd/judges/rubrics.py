"""What a judge is asked: a rubric is an object, made of parts that can be exchanged one by one."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import yaml

from dsd.judges.rubric_examples import Example as Example
from dsd.judges.rubric_examples import check_examples, example_of

Shown = Literal["reference", "generated", "prompt", "subject"]
"""What a rubric looks at: pictures, what was to be drawn, and what the reference shows in words, if known."""

Form = Literal["object", "text"]
"""`object`: fields, an analysis of each criterion and then the score; `text`: words that end in
"Score: N"."""

Place = Literal["system", "user"]
"""Where the rubric stands: in the system message, or in the user's first turn."""

_FOLDER = Path(__file__).parent / "rubric_files"
_MAX_BYTES = 2**16
_MOST_STEPS = 101


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """By what pictures are rated, and how a model is asked for it.

    Attributes:
        name: what its ratings are called by.
        rates: what is rated: "concept_preservation", "prompt_following", or something of one's own.
        shows: which pictures and texts are shown, in this order.
        task: what the judge is to do.
        criteria: what it looks at, by name; may be empty.
        scale: what each whole number from the lowest to the highest means; empty texts for no meaning.
        advice: what else it is to bear in mind.
        copying: what is to be done about a picture that copies its reference; empty if copying is not
            penalised.
        examples: cases and their scores, in words or with pictures.
        form: of the answer.
        analysis: whether the judge writes an analysis before the score.
        place: where the rubric stands.
        plan: a turn that the model is made to have said, between the rubric and the pictures: how it is going
            to proceed. Needs place="user"; without it, rubric and pictures are one turn.
        image_px: longer side at which pictures are sent.
        square: bring pictures to a square of `image_px`, whatever their shape; else they keep their shape,
            and smaller ones their size.
        jpeg_quality: 1 to 95.
        temperature: of sampling.
        runs: how often a picture is to be rated.

    Raises:
        ValueError: if a part is missing, out of range or does not go with another.
    """

    name: str
    rates: str
    shows: Sequence[Shown]
    task: str
    scale: Mapping[int, str]
    criteria: Mapping[str, str] = field(default_factory=dict)
    advice: str = ""
    copying: str = ""
    examples: Sequence[Example] = ()
    form: Form = "object"
    analysis: bool = True
    place: Place = "system"
    plan: str = ""
    image_px: int = 512
    square: bool = False
    jpeg_quality: int = 95
    temperature: float | None = 0.0
    runs: int = 1

    def __post_init__(self) -> None:
        _check_types({f.name: getattr(self, f.name) for f in fields(self)})
        fixed = {
            "shows": tuple(self.shows),
            "criteria": MappingProxyType(dict(self.criteria)),
            "scale": MappingProxyType(dict(sorted(self.scale.items()))),
            "examples": tuple(self.examples),
        }
        for name, value in fixed.items():
            object.__setattr__(self, name, value)
        _check_values(self)

    @property
    def low(self) -> int:
        """Lowest rating."""
        return min(self.scale)

    @property
    def high(self) -> int:
        """Highest rating."""
        return max(self.scale)

    @property
    def penalises_copying(self) -> bool:
        """Whether a picture that copies its reference is rated lower for it."""
        return bool(self.copying)

    @property
    def num_pictures(self) -> int:
        """How many pictures are shown."""
        return sum(name in ("reference", "generated") for name in self.shows)

    @property
    def shown_examples(self) -> list[Example]:
        """The examples that have pictures."""
        return [example for example in self.examples if example.has_pictures]

    @property
    def fingerprint(self) -> str:
        """A hash of all of it: 16 hexadecimal characters."""
        text = json.dumps(self.as_dict(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Its parts in JSON's own types: what `Rubric.load` takes."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        examples = [example.as_dict() for example in self.examples]
        return plain | {
            "shows": list(self.shows),
            "criteria": dict(self.criteria),
            "scale": dict(self.scale),
            "examples": examples,
        }

    def text(self) -> str:
        """The rubric as the judge reads it."""
        parts = [self.task.strip()]
        if self.criteria:
            parts.append("Criteria:\n" + "\n".join(f"- {n}: {t.strip()}" for n, t in self.criteria.items()))
        parts += [part.strip() for part in (self.advice, self.copying) if part]
        scale = f"The score is a whole number from {self.low} (worst) to {self.high} (best)"
        meanings = "\n".join(f"- {n}: {t.strip()}" for n, t in self.scale.items() if t.strip())
        parts.append(f"{scale}:\n{meanings}" if meanings else f"{scale}.")
        words = [x for x in self.examples if not x.has_pictures]
        if words:
            told = (f"- {e.case.strip()} Score: {e.score}. {e.why.strip()}".strip() for e in words)
            parts.append("Examples:\n" + "\n".join(told))
        if count := len(self.shown_examples):
            parts.append(
                f"{count} {'example' if count == 1 else 'examples'} with pictures and their right scores "
                "come first; then comes the case that you rate. Rate that one alone."
            )
        return "\n\n".join([*parts, self._form_in_words()])

    def _form_in_words(self) -> str:
        if self.form == "object":
            reasons = self.analysis or self.copying
            return "Fill the fields of the answer in their order." if reasons else "Give the score alone."
        last = f"Score: N\nwhere N is one whole number from {self.low} to {self.high}"
        if self.analysis:
            first = "Write a short analysis first, without scores. End with one line of this form:"
            return f"{first}\n{last}."
        return f"Answer with one line of this form and nothing else:\n{last}."

    @classmethod
    def load(cls, rubric: "str | PathLike[str] | Mapping[str, Any] | Rubric") -> "Rubric":
        """A rubric by its name, from a YAML file, or from a mapping.

        In a file or a mapping, `extends` names another one, by name or path (from the file's folder): what is
        given takes the place of its parts.

        Raises:
            LookupError: if there is none of that name.
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no rubric.
        """
        if isinstance(rubric, Rubric):
            return rubric
        if isinstance(rubric, Mapping):
            return _built(rubric, Path.cwd(), "The rubric", of_file=False)
        return _built(*_read(rubric, Path.cwd()))


def names() -> list[str]:
    """The rubrics that ship with dsd."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def _read(rubric: str | PathLike[str], folder: Path) -> tuple[Mapping[str, Any], Path, str]:
    """A file's content, its folder, and what to call it."""
    if isinstance(rubric, str) and rubric in names():
        path = _FOLDER / f"{rubric}.yaml"
    else:
        path = folder / Path(rubric).expanduser()
        if path.suffix not in (".yaml", ".yml"):
            near = difflib.get_close_matches(str(rubric), names(), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise LookupError(
                f"No rubric is named {str(rubric)!r}.{hint} Known: {', '.join(names())}; or name a .yaml "
                "file."
            )
        if not path.is_file():
            raise FileNotFoundError(f"There is no rubric at {path}. Known by name: {', '.join(names())}.")
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise ValueError(f"The rubric {path} has {size} bytes; at most {_MAX_BYTES} are read.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The rubric {path} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"The rubric {path} must be a mapping of parts; got {type(content).__name__}.")
    return content, path.parent, f"The rubric {path}"


def _built(given: Mapping[str, Any], folder: Path, what: str, depth: int = 0, of_file: bool = True) -> Rubric:
    parts = dict(given)
    extended = parts.pop("extends", None)
    if extended is not None:
        if depth > 8:
            raise ValueError(f"{what} extends others more than 8 deep, or itself.")
        base = _built(*_read(extended, folder), depth=depth + 1)
        parts = base.as_dict() | parts
    known = [f.name for f in fields(Rubric)]
    for name in parts:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{what} has an unknown part {name!r}.{hint} Allowed: {', '.join(known)}.")
    for name in ("name", "rates", "shows", "task", "scale"):
        if name not in parts:
            raise ValueError(f"{what} lacks the part {name!r}.")
    try:
        if isinstance(parts.get("examples"), list | tuple):
            within = folder if of_file else None
            parts["examples"] = [example_of(example, within) for example in parts["examples"]]
        _check_types(parts)
        return Rubric(**parts)
    except ValueError as error:
        raise ValueError(f"{what} cannot be used: {error}") from error


_TEXTS = ("name", "rates", "task", "advice", "copying", "plan")
_WHOLE = {"image_px": 8192, "jpeg_quality": 95, "runs": 1000}
_CHOICES: dict[str, tuple[str, ...]] = {"form": get_args(Form), "place": get_args(Place)}


def _check_types(parts: Mapping[str, Any]) -> None:
    """Raise a ValueError for a part of the wrong type; some may be missing."""

    def wrong(name: str, wanted: str) -> ValueError:
        return ValueError(f"`{name}` {wanted}; got {parts[name]!r}.")

    for name in parts:
        part = parts[name]
        if name in _TEXTS and (not isinstance(part, str) or (name in _TEXTS[:3] and not part.strip())):
            raise wrong(name, "must be a text, and not empty")
        if name in ("analysis", "square") and type(part) is not bool:
            raise wrong(name, "is true or false")
        if name in _WHOLE and (type(part) is not int or not 1 <= part <= _WHOLE[name]):
            raise wrong(name, f"is a whole number from 1 to {_WHOLE[name]}")
        if name in _CHOICES and part not in _CHOICES[name]:
            raise wrong(name, f"is one of {', '.join(_CHOICES[name])}")
        if name == "temperature" and part is not None:
            if type(part) not in (int, float) or not 0 <= part <= 2:
                raise wrong(name, "is from 0 to 2, or None")
        if name == "shows":
            known = isinstance(part, list | tuple) and all(shown in get_args(Shown) for shown in part)
            if not known or len(set(part)) < len(part):
                raise wrong(name, f"holds each of {', '.join(get_args(Shown))} once at most")
        if name in ("criteria", "scale"):
            of_texts = isinstance(part, Mapping) and all(isinstance(text, str) for text in part.values())
            if not of_texts or (name == "criteria" and not all(isinstance(key, str) for key in part)):
                raise wrong(name, "says in words what each one means")
        if name == "scale" and not all(type(number) is int for number in part):
            raise wrong(name, "has whole numbers")
        if name == "examples":
            if not isinstance(part, list | tuple) or not all(isinstance(x, Example) for x in part):
                raise wrong(name, "is a list of examples")


def _check_values(rubric: Rubric) -> None:
    """Raise a ValueError for parts that do not go together."""
    if "generated" not in rubric.shows:
        raise ValueError("`shows` must hold 'generated': it is that picture which is rated.")
    if rubric.copying and "reference" not in rubric.shows:
        raise ValueError("A copy can only be seen beside its reference: put 'reference' into `shows`.")
    if rubric.plan and rubric.place == "system":
        raise ValueError("A `plan` answers the user's first turn: it needs place='user'.")
    numbers = list(rubric.scale)
    if not 2 <= len(numbers) <= _MOST_STEPS:
        raise ValueError(f"`scale` has 2 to {_MOST_STEPS} numbers; got {len(numbers)}.")
    if numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise ValueError(f"`scale` must go up in steps of 1 without a gap; got {numbers}.")
    for example in rubric.examples:
        if type(example.score) is not int or example.score not in rubric.scale:
            raise ValueError(f"An example has the score {example.score!r}, which is not on the scale.")
    check_examples(rubric.examples, rubric.shows)
