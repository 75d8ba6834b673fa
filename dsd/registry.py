"""Names to classes, for one family of plug-ins.

A *spec* says which object is wanted: a name, `{"name": ..., **constructor arguments}`, or the object itself.
It is the same in Python, YAML, manifests and logs. A class is found under a name in one of four places: it
ships with dsd, it was registered in this process, an installed package announces it in the entry-point group
`dsd.<family>`, or the name is `"module:Class"` itself. Nothing is imported before it is asked for.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from enum import Enum
from importlib.metadata import EntryPoint, entry_points
from pathlib import PurePath
from typing import Any, Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)

_SECRET = re.compile(r"(^|_)(keys?|apikey|token|authorization)$|secret|password|credential", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_ARGUMENTS = "_constructor_arguments"


class Recorded:
    """A class whose objects remember their constructor arguments, so that `Registry.spec` can record them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An object that has its arguments by heart before `__init__` sees them."""
        new = super().__new__(cls)
        # Partial, because copying and unpickling give none at all; __init__ complains about missing ones.
        signature = inspect.signature(cls.__init__)
        given = dict(signature.bind_partial(new, *args, **kwargs).arguments)
        del given[next(iter(signature.parameters))]
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                given.update(given.pop(parameter.name, {}))
        _remember(new, given)
        return new


def _remember(item: object, arguments: dict[str, Any]) -> None:
    # object.__setattr__, because torch modules and frozen dataclasses have a __setattr__ of their own.
    object.__setattr__(item, _ARGUMENTS, arguments)


class Registry(Generic[T]):
    """The classes of one family by name.

    Args:
        family: the folder of the family and the end of its entry-point group: "curators" reads the group
            `dsd.curators`.
        base: the family's base class as "module:Class"; imported when it is first needed.
        builtin: the classes that ship with dsd, name to "module:Class".
    """

    def __init__(self, family: str, base: str, builtin: Mapping[str, str]) -> None:
        self.family = family
        self._base = base
        self._builtin = dict(builtin)
        self._registered: dict[str, type[T]] = {}

    @property
    def group(self) -> str:
        """The entry-point group in which other packages announce their classes."""
        return f"dsd.{self.family}"

    @property
    def _noun(self) -> str:
        return self._base.partition(":")[2]

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator that gives a class a name in this process, for notebooks and scripts.

        Running the same cell twice replaces the class.

        Raises:
            ValueError: if another class has the name.
            TypeError: if the class is not of this family.
        """

        def decorate(cls: C) -> C:
            known = self._registered.get(name)
            if known is not None and _reference(known) != _reference(cls):
                raise ValueError(self._clash(name, [_reference(known), _reference(cls)]))
            if claims := self._claims(name, registered=False):
                raise ValueError(self._clash(name, [*claims, _reference(cls)]))
            self._registered[name] = self._checked(name, cls)
            return cls

        return decorate

    def names(self) -> list[str]:
        """All known names, sorted. Imports none of their modules."""
        return sorted({*self._builtin, *self._registered, *(point.name for point in self._entry_points())})

    def origins(self, name: str) -> list[str]:
        """Who stands behind a name: the package and its "module:Class"; more than one is a clash.

        Imports nothing.
        """
        return list(self._claims(name))

    def get(self, name: str) -> type[T]:
        """The class of that name, imported now.

        Raises:
            LookupError: if there is none, with the nearest name and all known ones.
            ValueError: if several packages claim the name.
            TypeError: if what the name stands for is not of this family.
            ImportError: if the module of the class does not import: its own error, unchanged.
        """
        claims = self._claims(name)
        if len(claims) > 1:
            raise ValueError(self._clash(name, list(claims)))
        if not claims:
            if ":" not in name:
                raise LookupError(self._unknown(name))
            return self._checked(name, _load(name))
        (found,) = claims.values()
        if isinstance(found, EntryPoint):
            return self._checked(name, found.load())
        return self._checked(name, _load(found) if isinstance(found, str) else found)

    def create(self, spec: str | Mapping[str, Any] | T) -> T:
        """The object that a spec stands for; an object is returned as it is.

        Raises:
            TypeError: if the spec is of another type, or an argument is unknown or missing.
            LookupError, ValueError: as `get`.
        """
        if isinstance(spec, str):
            name, arguments = spec, {}
        elif isinstance(spec, Mapping):
            arguments = {str(key): value for key, value in spec.items()}
            name = arguments.pop("name", None)
            if not isinstance(name, str):
                raise TypeError(
                    f'The spec of a {self._noun} needs a "name"; got {dict(spec)}. Known: {self._known()}.'
                )
        elif isinstance(spec, self._base_class()):
            return spec
        else:
            raise TypeError(
                f'A {self._noun} is asked for by a name, by {{"name": ..., **arguments}} or by an object '
                f"of that class; got {spec!r} of type {type(spec).__name__}."
            )
        cls = self.get(name)
        self._check_arguments(name, cls, arguments)
        created = cls(**arguments)
        if not isinstance(created, Recorded):
            _remember(created, arguments)
        return created

    def spec(self, item: T) -> dict[str, Any]:
        """The spec that builds `item` again: its name and the constructor arguments that were given.

        Fit for JSON and for people to read: arguments whose names mean a secret (`api_key`, `hf_token`,
        `password`, ...) and logins in URLs are left out; objects that JSON does not have become
        `"<module.Class>"`. A class that has no registered name is called `"module:Class"`.

        Raises:
            TypeError: if the object keeps no record of its arguments: build it by `create` or derive it from
                `Recorded`.
        """
        arguments = getattr(item, _ARGUMENTS, None)
        if arguments is None:
            raise TypeError(
                f"{type(item).__name__} keeps no record of its arguments. "
                f"Build it by its spec: dsd.{self.family}.create({{'name': ..., ...}})."
            )
        return {"name": self._name_of(type(item)), **self._plain(arguments)}

    def member(self, name: str) -> type[T]:
        """The base class or a builtin class by its class name, for a family package's `__getattr__` (PEP
        562).

        Raises:
            AttributeError: if there is none.
        """
        for reference in (self._base, *self._builtin.values()):
            if reference.partition(":")[2] == name:
                cls: type[T] = _load(reference)
                return cls
        raise AttributeError(f"module 'dsd.{self.family}' has no attribute {name!r}")

    def members(self) -> list[str]:
        """The class names that `member` knows."""
        return sorted({reference.partition(":")[2] for reference in (self._base, *self._builtin.values())})

    def _entry_points(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))

    def _claims(self, name: str, registered: bool = True) -> dict[str, str | type[T] | EntryPoint]:
        """Who says what the name stands for, described for a person."""
        claims: dict[str, str | type[T] | EntryPoint] = {}
        if name in self._builtin:
            claims[f"dsd ({self._builtin[name]})"] = self._builtin[name]
        for point in self._entry_points():
            if point.name == name:
                package = point.dist.name if point.dist is not None else "an unnamed package"
                claims[f"{package} ({point.value})"] = point
        if registered and name in self._registered:
            claims[_reference(self._registered[name])] = self._registered[name]
        return claims

    def _clash(self, name: str, claims: list[str]) -> str:
        return (
            f"The name {name!r} is claimed by more than one {self._noun}: {' and '.join(claims)}. "
            f"Uninstall one of them or rename its entry point in the group {self.group!r}."
        )

    def _known(self) -> str:
        return ", ".join(self.names()) or "none"

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"No {self._noun} is named {name!r}.{hint} Known: {self._known()}."

    def _base_class(self) -> type[T]:
        cls: type[T] = _load(self._base)
        return cls

    def _checked(self, name: str, cls: Any) -> type[T]:
        base = self._base_class()
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise TypeError(
                f"{name!r} stands for {cls!r}, which is not a {self._noun}. Derive it from {self._base}."
            )
        return cls

    def _check_arguments(self, name: str, cls: type[T], arguments: dict[str, Any]) -> None:
        takes_any = (
            cls.__init__ is object.__init__
        )  # whose signature says (*args, **kwargs), though it takes none
        parameters = [] if takes_any else list(inspect.signature(cls.__init__).parameters.values())[1:]
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        allowed = [parameter.name for parameter in parameters if parameter.kind not in kinds]
        listed = f"Allowed: {', '.join(allowed) or 'none'}."
        unknown = [argument for argument in arguments if argument not in allowed]
        if unknown and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            near = difflib.get_close_matches(unknown[0], allowed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{self._noun} {name!r} has no argument {unknown[0]!r}.{hint} {listed}")
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]
        if missing := [argument for argument in needed if argument not in arguments]:
            raise TypeError(f"{self._noun} {name!r} needs the argument {missing[0]!r}. {listed}")

    def _name_of(self, cls: type) -> str:
        reference = _reference(cls)
        for name, registered in self._registered.items():
            if registered is cls:
                return name
        for name, builtin in self._builtin.items():
            if builtin == reference:
                return name
        for point in self._entry_points():
            if point.value == reference:
                return point.name
        return reference

    def _plain(self, value: Any) -> Any:
        """`value` in JSON's own types, without secrets."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str | PurePath):
            return _URL_LOGIN.sub("", str(value))
        if isinstance(value, Enum):
            return self._plain(value.value)
        if isinstance(value, Mapping):
            return {
                str(key): self._plain(item) for key, item in value.items() if not _SECRET.search(str(key))
            }
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        if isinstance(value, Recorded) and isinstance(value, self._base_class()):
            return self.spec(value)
        return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _reference(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _load(reference: str) -> Any:
    """The object that "module:Class" names."""
    module, _, qualname = reference.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *qualname.split("."))):
        raise LookupError(f"{reference!r} names no class. Write package.module:Class.")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        if not hasattr(found, part):
            raise LookupError(f"There is no {qualname!r} in the module {module!r}.")
        found = getattr(found, part)
    return found
