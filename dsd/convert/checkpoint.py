"""Weights in safetensors files, read and written one tensor at a time."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsd.opening import is_file

WEIGHTS = "diffusion_pytorch_model"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_INTEGERS = {"I32": torch.int32, "I64": torch.int64}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: of safetensors.
        key: the tensor's name in it.
        shape: of the tensor.
        dtype: of the tensor.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def load(self) -> Tensor:
        """Its values.

        The file is opened for this one tensor: one that stays open stays mapped, and all that was ever read
        of it would count as this process' memory.

        Raises:
            ValueError: if some are not finite.
        """
        with safe_open(self.file, framework="pt") as opened:
            values: Tensor = opened.get_tensor(self.key)
        if not torch.isfinite(values).all():
            raise ValueError(
                f"{self.key!r} in {self.file} has values that are not finite, so the file is damaged. "
                "Download it again."
            )
        return values


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor that will be written.

    Attributes:
        name: in the new file.
        shape: of the tensor.
        dtype: of the tensor.
        make: computes it, when its turn comes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """How much room it takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: Path, integers: bool = False) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a file by name, and the file's metadata. No values are read.

    Args:
        file: of safetensors.
        integers: whether it may hold integers too, such as shapes.

    Raises:
        ValueError: if it is no whole safetensors file, or holds other than plain floating-point numbers.
        FileNotFoundError: if there is no such file.
    """
    dtypes = _DTYPES | _INTEGERS if integers else _DTYPES
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            slices = {key: opened.get_slice(key) for key in opened.keys()}
            found = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(
            f"{file} ({file.stat().st_size:,} bytes) is no whole safetensors file: {error}. "
            "Its download may have been cut off. Download it again."
        ) from error
    for key, (_, dtype) in found.items():
        if dtype not in dtypes:
            raise ValueError(
                f"{key!r} in {file} is stored as {dtype}; only {', '.join(dtypes)} can be converted. "
                "Give a checkpoint that is not quantised."
            )
    stored = {
        key: Stored(file=file, key=key, shape=shape, dtype=dtypes[dtype])
        for key, (shape, dtype) in found.items()
    }
    return stored, metadata


def read_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of a diffusers model by name, from its one file or its shards.

    Raises:
        ValueError: if a file is damaged, or the shards are not those of the index.
        FileNotFoundError: if a file is missing.
    """
    index, single = folder / f"{WEIGHTS}.safetensors.index.json", folder / f"{WEIGHTS}.safetensors"
    if not index.is_file():  # where there are both, diffusers, too, takes the index
        if single.is_file():
            return read_header(single)[0]
        others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth"))
        hint = f" ({', '.join(others)} is not read: pickles can run code.)" if others else ""
        raise FileNotFoundError(f"There is no {single.name} and no {index.name} in {folder}.{hint}")
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in listed.values()
    ):
        raise ValueError(f"{index} has no `weight_map` from tensors to files beside it. Download it again.")
    tensors: dict[str, Stored] = {}
    for name in sorted(set(listed.values())):
        if not is_file(folder / name):
            raise FileNotFoundError(f"The shard {name[:200]} of {index} is missing. Download it too.")
        tensors |= {key: x for key, x in read_header(folder / name)[0].items() if listed.get(key) == name}
    if missing := sorted(set(listed) - set(tensors)):
        raise ValueError(
            f"{index} lists {len(missing)} tensors that its shards do not hold, such as {missing[0]!r}. "
            "Files of several downloads may be mixed: download all of them again."
        )
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    """A model's `config.json`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no {file}. Give a folder with `transformer/config.json` and its weights in it, as in "
            "the release's repository."
        )
    return read_json(file)


def write(
    folder: Path,
    entries: Iterable[Entry],
    max_bytes: float = math.inf,
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Write a model's weights as diffusers names and splits them, each tensor as soon as it is made.

    Args:
        folder: of the model; it must exist.
        entries: all tensors.
        max_bytes: of one file; with more in all there are shards and an index.
        advance: told how many bytes more are written.
    """
    shards = _split(list(entries), max_bytes)
    names = [f"{WEIGHTS}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = [f"{WEIGHTS}.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard, advance)
    if len(shards) > 1:
        size = sum(entry.num_bytes for shard in shards for entry in shard)
        place = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(place.items()))}
        (folder / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_file(
    file: Path, entries: Sequence[Entry], advance: Callable[[int], object] = lambda count: None
) -> None:
    """Write one safetensors file, holding one tensor at a time: `safetensors.torch.save_file` needs them all.

    References:
        The format: https://huggingface.co/docs/safetensors#format.
    """
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)  # so that all numbers are aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in ordered:
        start, end = end, end + entry.num_bytes
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            values = entry.make()
            assert (tuple(values.shape), values.dtype) == (entry.shape, entry.dtype), entry.name
            out.write(values.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            advance(entry.num_bytes)
        out.flush()
        os.fsync(out.fileno())


def read_json(file: Path) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        ValueError: if it does not.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}. Download it again.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds {type(content).__name__}, not a JSON object. Download it again.")
    return dict(content)


def _split(entries: list[Entry], max_bytes: float) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.num_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.num_bytes
    return shards
