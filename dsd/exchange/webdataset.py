"""WebDataset: tar archives, in which the files of a sample share their name up to the first dot.

`KEY.reference.png`, `KEY.target.png`, `KEY.txt` (the caption) and `KEY.json` (the pair's other fields and its
verdicts). Nothing is unpacked to the disk.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from dsd.exchange import parquet_files
from dsd.exchange.foreign import Found, Options, Refused, claimed, fields, picture, shown, text, verdicts
from dsd.opening import MAX_FILE_BYTES
from dsd.types import Pair

_PICTURES = ("png", "jpg", "jpeg", "webp")
_MAX_TEXT_BYTES = 4 * 2**20
_BLOCK = 512


class CutError(ValueError):
    """An archive ends before its end, or is damaged."""


def read(source: Path, options: Options) -> Iterator[Found | Refused]:
    """See `Reader`. `options.columns` names the endings of a sample's files, such as {"target": "jpg"}.

    Raises:
        ValueError: if an archive is cut short or damaged, when all before that was given.
    """
    for path in parquet_files.find(source, ".tar"):
        name = path.relative_to(source).as_posix() if path != source else path.name
        for key, sample in _samples(path, name, options.columns or {}):
            where = f"{name}, {shown(key)}"
            if isinstance(sample, str):
                yield Refused(where=where, reason=sample)
                continue
            try:
                yield _found(where, sample, options)
            except (ValueError, RecursionError) as error:
                yield Refused(where=where, reason=str(error))


def _found(where: str, sample: Mapping[str, bytes], options: Options) -> Found:
    about = json.loads(sample["json"]) if "json" in sample else {}
    if not isinstance(about, dict):
        raise ValueError("Its .json file is no object.")
    if "caption" in sample:
        about = {**about, "caption": sample["caption"].decode()}
    elif not isinstance(about.get("caption"), str):
        about = {**about, "caption": text(None, "caption")}
    pair = Pair(
        reference=picture(sample.get("reference"), "reference"),
        target=picture(sample.get("target"), "target"),
        **fields(about, options),
    )
    return Found(where=where, pair=pair, verdicts=verdicts(about.get("verdicts")), claimed_id=claimed(about))


def _samples(
    path: Path, name: str, endings: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, bytes] | str]]:
    """Each sample's key with its files by their role, or why it is refused."""
    roles = {
        **{f"reference.{ending}": "reference" for ending in _PICTURES},
        **{f"target.{ending}": "target" for ending in _PICTURES},
        "txt": "caption",
        "json": "json",
        **{ending: role for role, ending in endings.items()},
    }
    key, wrong = "", ""
    sample: dict[str, bytes] = {}
    for member, data in _members(path, roles):
        folder, _, base = member.rpartition("/")
        stem, _, ending = base.partition(".")
        of = f"{folder}/{stem}" if folder else stem
        if of != key:
            if sample or wrong:
                yield key, wrong or sample
            key, sample, wrong = of, {}, ""
        if isinstance(data, str):
            wrong = wrong or f"{shown(member)}: {data}"
        elif roles[ending.lower()] in sample:
            wrong = wrong or f"{shown(member)}: there are two such files in the sample"
        else:
            sample[roles[ending.lower()]] = data
    if sample or wrong:
        yield key, wrong or sample


def _members(path: Path, roles: Mapping[str, str]) -> Iterator[tuple[str, bytes | str]]:
    """The files that have a role, or why one is refused. Files of other endings are passed over."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep every header
                    ending = PurePosixPath(member.name).name.partition(".")[2].lower()
                    if member.isdir() or (member.isreg() and ending not in roles):
                        continue
                    yield member.name, _refusal(member, roles.get(ending, "")) or _content(archive, member)
                # Where tarfile stops without an error, there may be a damaged header, or nothing at all.
                stream.seek(archive.offset)
                ended = stream.read(_BLOCK) == bytes(_BLOCK)
        except (tarfile.TarError, EOFError, OverflowError, RecursionError) as error:
            raise CutError(_cut(path, str(error))) from error
        if not ended and size:
            raise CutError(_cut(path, "it does not end as archives do"))


def _refusal(member: tarfile.TarInfo, role: str) -> str:
    """Why a file of an archive is not read; empty if it is."""
    parts = PurePosixPath(member.name.replace("\\", "/")).parts
    if member.name.startswith(("/", "\\")) or ".." in parts or "\0" in member.name or ":" in parts[0]:
        return "its path leads out of the archive"
    if not member.isreg() or member.issparse():
        return "it is no plain file, but a link, a device or the like"
    limit = MAX_FILE_BYTES if role in ("reference", "target") else _MAX_TEXT_BYTES
    if member.size > limit:
        return f"it has {member.size:,} bytes; at most {limit:,} are read"
    return ""


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise EOFError("it ends within a file")
    return data


def _cut(path: Path, why: str) -> str:
    return (
        f"The archive {path} is cut short or damaged ({why}). The pairs before that are kept. Get it again "
        "and repeat the import, which goes on from there. Compressed ones are to be unpacked to .tar first."
    )
