"""What a stage records of itself: its spec, its shards, and the hash of what it was made from."""

import hashlib
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from dsd import __version__
from dsd.data.atomic import replace_file
from dsd.data.storage import Location
from dsd.data.trust import check_manifest

FORMAT = 2
"""The format that manifests are written in; all earlier ones are read. See `_UPGRADES`."""
STAGE_MANIFEST = (
    ".manifest.json"  # hidden, because `datasets` reads every visible JSON file of a folder as data
)
_PACKAGES = ("torch", "diffusers", "transformers", "pyarrow", "pillow")
_SECRET_NAME = re.compile(
    r"(^|_|-)(keys?|apikey|token|authorization)$|secret|password|credential", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"\b(sk-|pk-|rk-|hf_|gh[pousr]_|xox[abpr]-|AIza|AKIA)[A-Za-z0-9_\-*]{12,}"
    r"|(?<=Bearer )\S+|(?<=://)[^/@\s]+(?=@)"
)


class ManifestError(RuntimeError):
    """A manifest or a shard is not what it should be: damaged, or made from something else."""


class ChangedError(ManifestError):
    """Rows were replaced by equal or other ones while they were read; nothing is damaged."""


class SpecError(ValueError):
    """A stage is asked for with another spec than the one that its rows were made with."""


def without_secrets(value: Any) -> Any:
    """A JSON value without entries whose names mean a secret; keys and logins in texts are struck out."""
    if isinstance(value, Mapping):
        return {str(k): without_secrets(v) for k, v in value.items() if not _SECRET_NAME.search(str(k))}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return _SECRET_TEXT.sub("***", value) if isinstance(value, str) else value


def ids_digest(ids: Iterable[str]) -> str:
    """A hash of a set of ids that does not depend on their order or on how they are cut into shards.

    The sum of their SHA-256 modulo 2^256: the digest of two disjoint sets is `add_digests` of theirs.
    """
    digests = b"".join([hashlib.sha256(i.encode()).digest() for i in ids])
    columns = np.frombuffer(digests, dtype=">u4").reshape(-1, 8).sum(axis=0, dtype=np.uint64)
    total = sum(int(column) << 32 * place for place, column in enumerate(reversed(columns)))
    return f"{total % 2**256:064x}"


def add_digests(digests: Iterable[str]) -> str:
    """The digest of the union of disjoint sets of ids, from theirs."""
    return f"{sum(int(digest, 16) for digest in digests) % 2**256:064x}"


def versions() -> dict[str, str]:
    """The versions of what makes rows, as far as installed; imports none of it."""
    found = {"dsd": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of rows.

    Attributes:
        file: its name in the stage's folder.
        rows: how many rows it holds.
        bytes: its size.
        ids: `ids_digest` of its rows' ids.
        sha256: of the whole file.
        footer: SHA-256 of the file's footer. With it and the pages' own checksums, rows can be read singly
            and safely. Empty in a run of the first format that was not migrated: then the whole file is
            compared with `sha256` before a row is read.
    """

    file: str
    rows: int
    bytes: int
    ids: str
    sha256: str
    footer: str


@dataclass(frozen=True, kw_only=True)
class StageManifest:
    """The record of one stage, kept beside its shards.

    Attributes:
        stage: its name.
        spec: what its rows were made with.
        made_from: the stage it was made from, with the number of rows and `ids_digest` that it had; empty for
            the first.
        versions: of the packages that last wrote to it.
        complete: whether the last call came to its end.
        seconds: the time that all calls took together.
        counts: what the stage wants to tell of itself: failures, accepted pairs, ...
        shards: its files, in order.
    """

    stage: str
    spec: dict[str, Any]
    made_from: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)
    complete: bool = False
    seconds: float = 0.0
    counts: dict[str, Any] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def ids(self) -> str:
        """`ids_digest` of all rows."""
        return add_digests(shard.ids for shard in self.shards)

    def summary(self) -> dict[str, Any]:
        """What the run's manifest says of the stage: everything but the list of shards."""
        told = {"rows": self.rows, "ids": self.ids, "shards": len(self.shards)}
        return {**asdict(replace(self, shards=())), **told}

    def save(self, folder: Location) -> None:
        """Write it into the stage's folder, in one step and without secrets."""
        content = {"format": FORMAT, **without_secrets(asdict(self))}
        shards = ",\n  ".join(json.dumps(shard) for shard in content.pop("shards"))
        head = json.dumps(content, indent=1)[:-2]
        replace_file(folder / STAGE_MANIFEST, f'{head},\n "shards": [\n  {shards}\n ]\n}}\n'.encode())

    @classmethod
    def load(cls, folder: Location) -> "StageManifest":
        """Read the manifest of the stage in `folder`.

        Raises:
            FileNotFoundError: if there is none.
            ManifestError: if it cannot be read, or was written by a newer version of dsd.
        """
        path = folder / STAGE_MANIFEST
        try:
            content = json.loads(path.read_text())
            found = content.pop("format")
            if type(found) is int and 1 <= found <= FORMAT:
                for upgrade in _UPGRADES[found - 1 :]:
                    content = upgrade(content)
                check_manifest(content)
                shards = tuple(Shard(**shard) for shard in content.pop("shards"))
                return cls(**content, shards=shards)
            if type(found) is not int or found < 1:
                raise ValueError(f"its format is {found!r}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ManifestError(
                f"The manifest {path} is damaged ({error}). Restore it from a copy, or call the stage with "
                "overwrite=True to make its rows again."
            ) from error
        raise ManifestError(
            f"{path} has format {found}; dsd {__version__} reads formats up to {FORMAT}. Update dsd."
        )


def written_format(folder: Location) -> int:
    """The format that the manifest in `folder` has on disk.

    Raises:
        FileNotFoundError, ManifestError: as `StageManifest.load`.
    """
    StageManifest.load(folder)
    return int(json.loads((folder / STAGE_MANIFEST).read_text())["format"])


def _with_footers(content: dict[str, Any]) -> dict[str, Any]:
    """Format 1 to 2: at first, shards had no digest of their footer."""
    return {**content, "shards": [{"footer": "", **shard} for shard in content["shards"]]}


_UPGRADES: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_with_footers,)
"""What makes the content of a manifest of format 1, 2, ... that of the next one."""


def check_spec(
    stage: str, recorded: Mapping[str, Any], asked: Mapping[str, Any], *, name_hint: str = ""
) -> None:
    """Compare what a stage was made with and what is asked for now.

    Args:
        stage: for the message.
        recorded: from the manifest.
        asked: from the call.
        name_hint: a sentence on how to keep both, where the stage allows it.

    Raises:
        SpecError: with every difference, if there is one.
    """
    asked = json.loads(json.dumps(without_secrets(asked)))
    differences = list(_differences("", dict(recorded), asked))
    if differences:
        raise SpecError(
            f"The stage {stage!r} was made with another spec: {'; '.join(differences)}. "
            "Call it with the recorded one to go on, with overwrite=True to start again without its rows, or "
            f"in another run.{name_hint}"
        )


def _differences(where: str, recorded: Any, asked: Any) -> Iterable[str]:
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for key in sorted({*recorded, *asked}):
            path = f"{where}.{key}" if where else key
            if key not in recorded:
                yield f"{path} is new ({asked[key]!r})"
            elif key not in asked:
                yield f"{path} was {recorded[key]!r}, now left out"
            else:
                yield from _differences(path, recorded[key], asked[key])
    elif recorded != asked:
        yield f"{where} was {recorded!r}, now {asked!r}"
