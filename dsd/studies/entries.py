"""Members of a family under study: what each is called, and what its answers depend on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dsd.engines.specs import HOW_NOT_WHAT, what
from dsd.llm.asking import Asking
from dsd.registry import Registry
from dsd.studies.folder import slug

T = TypeVar("T", bound=Asking[Any])

_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class Named:
    """A member under study.

    Attributes:
        name: for tables and for the folder of its answers.
        spec: what its answers depend on, with the member's `fingerprint`, if it has one.
        made_here: whether the object was built from a spec, and is to be closed at the end.
    """

    name: str
    spec: dict[str, Any]
    made_here: bool = False

    @property
    def file(self) -> str:
        """Its name as a folder's name."""
        safe = slug(self.name)
        if len(safe) <= _LONGEST_NAME:
            return safe
        return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


def members(registry: Registry[T], given: Any, base: type[T]) -> list[tuple[Named, T]]:
    """The members that are asked for.

    Args:
        registry: of the family.
        given: as `named_specs` takes it; without a name a member is called by its spec.
        base: the class of the family.

    Raises:
        ValueError: if there is none, or two have one name.
        LookupError, TypeError: if a spec stands for no member.
    """
    found = []
    for name, spec in named_specs(given, base):
        member = registry.create(spec)
        plain: dict[str, Any] = json.loads(json.dumps(what(registry.spec(member))))
        kept = plain | ({"fingerprint": member.fingerprint} if member.fingerprint else {})
        named = Named(name=str(name) or name_of(plain), spec=kept, made_here=member is not spec)
        found.append((named, member))
    check_names([named for named, _ in found], base.__name__.lower())
    return found


def named_specs(given: Any, base: type) -> list[tuple[str, Any]]:
    """Names and specs; an empty name where none is given.

    Args:
        given: names joined by commas; a list of names, specs and objects; one of them; or `{NAME: spec}`.
        base: the class of objects.
    """
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",") if name.strip()]
    if isinstance(given, base) or (isinstance(given, Mapping) and isinstance(given.get("name"), str)):
        given = [given]
    return list(given.items()) if isinstance(given, Mapping) else [("", x) for x in given]


def check_names(found: Sequence[Named], noun: str) -> None:
    """Whether there are members, with names that no two share.

    Raises:
        ValueError: if not.
    """
    files = [named.file.lower() for named in found]
    twice = next((named.name for named in found if files.count(named.file.lower()) > 1), None)
    if not found or twice is not None:
        many = " or ".join(f"{part}s" for part in noun.split(" or "))
        problem = f"There is no {noun}" if not found else f"Two {many} are called {twice!r}"
        raise ValueError(
            f"{problem}. Give a list of specs, or {{NAME: spec}} with a name of its own for each."
        )


def name_of(spec: Mapping[str, Any]) -> str:
    """What a member is called: its name, with the arguments that it is given."""
    given = [f"{key}={_short(value)}" for key, value in spec.items() if key not in ("name", *HOW_NOT_WHAT)]
    return " ".join([str(spec["name"]).rpartition(":")[2], *given])


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")


def check_specs(
    known: Mapping[str, Any], asked: Sequence[Named], folder: Path, answers: str = "verdicts"
) -> dict[str, Any]:
    """The specs by name, those of earlier calls too.

    Raises:
        ValueError: if a name stood for another spec in an earlier call.
    """
    for entry in asked:
        before = known.get(entry.name, entry.spec)
        keys = [key for key in {**before, **entry.spec} if before.get(key) != entry.spec.get(key)]
        if keys:
            changes = "; ".join(f"{k} was {before.get(k)!r}, now {entry.spec.get(k)!r}" for k in keys)
            raise ValueError(
                f"{folder} holds {answers} of {entry.name!r} by another spec: {changes}. Give this one a "
                "name of its own ({NAME: spec}), or another folder."
            )
    return {**known, **{entry.name: entry.spec for entry in asked}}
