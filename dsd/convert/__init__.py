"""The published weights as a stock diffusers folder, and back.

See `dsd.convert.layouts` for what the two layouts are.
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from dsd.convert.adapters import LORA_FILE
from dsd.convert.checkpoint import Entry, read_json, write, write_file
from dsd.convert.folder import BASE, CONDITIONING, card, find, new_folder, pipeline_index, read_base
from dsd.convert.layouts import RELEASE_CLASS, meta_model, open_layout, to_release, to_stock
from dsd.export import CARD

__all__ = ["Converted", "convert"]

_PATTERNS = ["transformer/*.json", "transformer/*.safetensors", LORA_FILE, CARD]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        folder: where it is.
        num_bytes: of weights.
        num_tensors: of the transformer.
        adapters: how many layers have adapters, and what became of them.
    """

    folder: Path
    num_bytes: int
    num_tensors: int
    adapters: str

    def __str__(self) -> str:
        return (
            f"{self.num_tensors} tensors ({self.num_bytes / 1e9:.2f} GB), {self.adapters}; "
            f"the model is in {self.folder}"
        )


def convert(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    lora: Literal["merge", "keep", "none"] = "merge",
    base: str | PathLike[str] | None = None,
    reverse: bool = False,
    max_shard_gb: float = 10.0,
    progress: bool = True,
) -> Converted:
    """Turn the published weights into a folder that stock diffusers and `dsd sample` load.

    SRC has `transformer/` with `c_embedder.*` and beside it `pytorch_lora_weights.safetensors`; DST gets a
    `transformer/` of the stock class with twice the input channels. Weights pass through memory one by one,
    whatever the size of the file, and DST appears whole or not at all.

    Args:
        src: a folder, or its id on the Hub, such as primecai/dsd_model.
        dst: the new folder.
        lora: "merge" adds the adapters to the weights; "keep" writes their file beside the transformer, for
            `load_lora_weights`; "none" leaves them out.
        base: whose autoencoder, text encoders and scheduler to copy, so that the folder stands alone: a
            folder, a Hub id or "mini". By default it has the transformer only, and `dsd` takes the rest from
            FLUX.1-dev.
        reverse: from a stock folder, such as a student of `parallel`, to the release's layout. The bias goes
            to `x_embedder` whole, and that of `c_embedder` is zero. Adapters that are merged stay merged;
            the release's code reads a LoRA file in any case, so it gets one that changes nothing.
        max_shard_gb: largest file of the stock transformer, in GB; the release's is one file.
        progress: show a progress bar on stderr.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `dst` exists.
        ValueError: if files are damaged, of another model or another layout, or do not fit each other.
        LookupError: if the Hub does not give `src` or `base`.
        OSError: if `dst` cannot be written.
    """
    if lora not in ("merge", "keep", "none"):
        raise ValueError(f"Unknown lora={lora!r}. Allowed: 'merge', 'keep', 'none'.")
    if max_shard_gb <= 0:
        raise ValueError(f"`max_shard_gb` must be above 0; got {max_shard_gb}.")
    if reverse and base is not None:
        raise ValueError("The release's layout has no other parts: give `base` or `reverse`, not both.")
    source, target = find(src, _PATTERNS), Path(dst).expanduser().absolute()
    layout = open_layout(source, with_adapters=lora != "none")
    if layout.released == reverse:
        form, hint = ("the release's", "Leave out") if reverse else ("stock", "Use it as it is, or add")
        raise ValueError(f"{source} is in {form} form already. {hint} --reverse.")
    if reverse:
        _check_card(source)
    config, entries = (to_release if reverse else to_stock)(layout, merge=lora == "merge")
    files, index = ({}, {}) if base is None else read_base(str(base), config)
    kept = lora == "keep" and bool(layout.adapters)
    if kept:
        files[Path(LORA_FILE)] = source / LORA_FILE
    num_bytes = sum(entry.num_bytes for entry in entries)
    with new_folder(target, num_bytes + sum(path.stat().st_size for path in files.values())) as new:
        (new / "transformer").mkdir()
        with tqdm(total=num_bytes, unit="B", unit_scale=True, desc=target.name, disable=not progress) as bar:
            limit = math.inf if reverse else max_shard_gb * 1e9
            write(new / "transformer", entries, limit, bar.update)
        for place, path in files.items():
            (new / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, new / place)
        about = json.loads(meta_model(source, config).to_json_string())
        if reverse:
            del about["out_channels"]
            _write_json(new / "transformer" / "config.json", {**about, "_class_name": RELEASE_CLASS})
            if not kept:
                write_file(new / LORA_FILE, _no_adapters(entries))
        else:
            _write_json(new / "transformer" / "config.json", about)
            _write_json(new / CARD, card(str(base or BASE), "trained" if base is None else "all", kept))
        if base is not None:
            _write_json(new / "model_index.json", pipeline_index(index))
    done = {"merge": "merged", "keep": "kept", "none": ""}[lora]
    adapters = f"adapters of {len(layout.adapters)} layers {done}" if layout.adapters else "no adapters"
    return Converted(folder=target, num_bytes=num_bytes, num_tensors=len(entries), adapters=adapters)


def _check_card(source: Path) -> None:
    """Refuse students that the release's code would not run."""
    if not (source / CARD).is_file():
        return
    spec = read_json(source / CARD).get("conditioning") or {}
    if spec.get("name") != CONDITIONING:
        raise ValueError(
            f"{source} is a student of {spec.get('name')!r}, the release is one of {CONDITIONING!r}."
        )
    if len(spec) > 1:
        logger.warning(
            "%s is a student of %s. The release's code knows its own form alone: frames of one size side by "
            "side, encoded as one picture.",
            source,
            spec,
        )


def _no_adapters(entries: Sequence[Entry]) -> list[Entry]:
    """One adapter of rank 1 that is zero, on the first attention layer."""
    layer = next(entry for entry in entries if entry.name.endswith(".attn.to_q.weight"))
    name = f"transformer.{layer.name.removesuffix('.weight')}"
    shapes = {"lora_A": (1, layer.shape[1]), "lora_B": (layer.shape[0], 1)}
    return [
        Entry(
            name=f"{name}.{part}.weight",
            shape=shape,
            dtype=layer.dtype,
            make=partial(torch.zeros, shape, dtype=layer.dtype),
        )
        for part, shape in shapes.items()
    ]


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
