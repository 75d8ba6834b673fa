"""What a language model answers, as pydantic models: checked here, so that it is shown what is wrong."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model, field_validator, model_validator

from dsd.prompts.distinct import subject_words
from dsd.texts import one_line

MAX_SUBJECT_CHARS = 240
MAX_PANEL_CHARS = 1200
_FEWEST_WORDS = 2


class Sight(BaseModel):
    """What a caption is about. Its reasoning stands before its verdict, since models write in that order."""

    reasoning: str
    subject: str
    kind: str
    clear: bool

    @field_validator("subject")
    @classmethod
    def _clean(cls, subject: str) -> str:
        return one_line(subject, MAX_SUBJECT_CHARS)

    @property
    def usable(self) -> bool:
        """Whether there is a subject, and of one of the categories."""
        return self.clear and self.kind != "none" and bool(self.subject)


class Draft(BaseModel):
    """A subject, and what each panel shows."""

    plan: str
    subject: str
    panels: list[str]

    @field_validator("subject")
    @classmethod
    def _one_subject(cls, subject: str) -> str:
        subject = one_line(subject, MAX_SUBJECT_CHARS).rstrip(".;, ")
        if len(subject_words(subject)) < _FEWEST_WORDS:
            raise ValueError(f"it needs {_FEWEST_WORDS} words at least, got {subject!r}")
        return subject

    @field_validator("panels")
    @classmethod
    def _clean_panels(cls, panels: list[str]) -> list[str]:
        return [one_line(panel, MAX_PANEL_CHARS) for panel in panels]

    @model_validator(mode="after")
    def _panels_differ_and_name_the_subject(self) -> "Draft":
        subject = subject_words(self.subject)
        for number, panel in enumerate(self.panels, start=1):
            if not subject & subject_words(panel):
                raise ValueError(f"panel {number} does not name the subject: {panel!r}")
        if len({panel.casefold() for panel in self.panels}) < len(self.panels):
            raise ValueError("two panels say the same")
        return self


@lru_cache(maxsize=64)
def sight_of(kinds: tuple[str, ...]) -> type[Sight]:
    """The answer on a caption, with these categories."""
    choice: Any = Literal[(*kinds, "none")]  # type: ignore[valid-type]
    return create_model("Sight", __base__=Sight, kind=(choice, ...))


@lru_cache(maxsize=64)
def draft_of(num_panels: int) -> type[Draft]:
    """A prompt with so many panels."""

    class _Draft(Draft):
        # told to the model by the schema, and checked below with words that it can mend its answer by
        panels: list[str] = Field(json_schema_extra={"minItems": num_panels, "maxItems": num_panels})

        @field_validator("panels")
        @classmethod
        def _as_many(cls, panels: Sequence[str]) -> Sequence[str]:
            if len(panels) != num_panels:
                raise ValueError(f"there must be {num_panels} panels, got {len(panels)}")
            return panels

    _Draft.__name__ = f"Draft{num_panels}"  # in the JSON schema, which the cache's key is made of
    return create_model(f"Draft{num_panels}", __base__=_Draft)
