"""The folder that a conversion writes: whole or not at all, and what is in it beside the transformer."""

import errno
import importlib.metadata
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

import dsd
from dsd import conditioning as conditionings
from dsd import mini
from dsd.convert.adapters import LORA_FILE
from dsd.convert.checkpoint import read_config, read_json
from dsd.data.atomic import lock, make_folder

BASE = "black-forest-labs/FLUX.1-dev"
CONDITIONING = "parallel"
FRAME_SIZE = (512, 512)
PARTS = ("scheduler", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
_WITH_WEIGHTS = ("vae", "text_encoder", "text_encoder_2")
_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
_SLACK_BYTES = 16 << 20
_INDEX = "model_index.json"


@contextmanager
def new_folder(target: Path, num_bytes: int) -> Iterator[Path]:
    """A folder to fill. It becomes `target` when the block ends, and is removed if the block fails; what a
    killed process left is removed by the next call for the same target.

    Args:
        target: must not exist, or be empty.
        num_bytes: that will be written.

    Raises:
        FileExistsError: if there is something.
        OSError: if the disk has not enough room.
        LockedError: if another process is writing the same folder.
    """
    make_folder(target.parent)
    work = target.parent / f".{target.name}.converting"
    _check_free(target)
    make_folder(work)
    with lock(work, "convert"):
        new = work / "new"
        try:
            _check_free(target)  # again: whoever held the lock may have written it
            _check_room(target, num_bytes)
            if new.exists():
                shutil.rmtree(new)
            new.mkdir()
            yield new
            if target.exists():
                target.rmdir()
            new.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            text = f"{target} was not written: {error.strerror}. Free some space, or choose another disk."
            raise OSError(error.errno, text) from error
        finally:
            shutil.rmtree(work)


def _check_free(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists. Give a name that is free, or move it away.")


def _check_room(target: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if num_bytes + _SLACK_BYTES > free:
        raise OSError(
            errno.ENOSPC, f"it takes {num_bytes / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free"
        )


def card(base: str, components: str, lora: bool) -> dict[str, Any]:
    """What `DSDPipeline` must know of the released model, in the form of `dsd.export`.

    Args:
        base: the model that it was trained from.
        components: "all", or "trained" if the folder lacks what the base has.
        lora: whether its adapters are in a file of their own.
    """
    return {
        "dsd": dsd.__version__,
        "conditioning": {"name": CONDITIONING},
        "stock_pipeline": conditionings.get(CONDITIONING).stock_pipeline,
        "backbone": "flux",
        "settings": {},
        "base": base,
        "components": components,
        "frame_size": list(FRAME_SIZE),
        "lora": LORA_FILE if lora else None,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers")},
    }


def find(source: str | PathLike[str], patterns: list[str]) -> Path:
    """A folder, or what the Hub has under that id, from its cache if it is there.

    Args:
        source: a folder or a Hub id.
        patterns: of the files that are needed.

    Raises:
        FileNotFoundError: if it is neither.
        LookupError: if the Hub cannot be reached or does not give it.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise FileNotFoundError(f"There is no folder {str(source)!r}, and it is no id on the Hub.")
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except (HfHubHTTPError, OSError) as error:
        raise LookupError(
            f"There is no folder {str(source)!r}, and the Hub does not give it: {error} "
            "Give a folder, or an id that you may read."
        ) from error


def read_base(base: str, config: Mapping[str, Any]) -> tuple[dict[Path, Path], dict[str, Any]]:
    """A base's other parts: their files by their places in a pipeline folder, and their classes, as in
    `model_index.json`.

    Args:
        base: a folder of `FluxPipeline.save_pretrained`, a Hub id or "mini".
        config: of the transformer that they shall serve.

    Raises:
        FileNotFoundError: if a part is missing, or has no safetensors weights.
        ValueError: if a part's sizes do not fit the transformer.
    """
    patterns = [f"{part}/*{suffix}" for part in PARTS for suffix in _SUFFIXES]
    folder = mini.path() if base == "mini" else find(base, [_INDEX, *patterns])
    if not (folder / _INDEX).is_file():
        raise FileNotFoundError(f"{folder} has no {_INDEX}. Give a folder of FluxPipeline.save_pretrained.")
    files: dict[Path, Path] = {}
    for part in PARTS:
        found = sorted(path for path in (folder / part).glob("*") if path.suffix in _SUFFIXES)
        if not found or (part in _WITH_WEIGHTS and not any(x.suffix == ".safetensors" for x in found)):
            raise FileNotFoundError(
                f"{folder} has no {part} with safetensors weights. "
                f"Give a base that FluxPipeline.save_pretrained wrote, such as {BASE!r}."
            )
        files |= {Path(part) / path.name: path for path in found}
    for part, key, wanted in (
        ("vae", "latent_channels", config["out_channels"] // 4),
        ("text_encoder", "hidden_size", config["pooled_projection_dim"]),
        ("text_encoder_2", "d_model", config["joint_attention_dim"]),
    ):
        size = read_config(folder / part).get(key)
        if size != wanted:
            raise ValueError(
                f"The {part} of {base!r} has {key} {size}, but the transformer needs {wanted}. "
                f"Give the base that it was trained from, such as {BASE!r}."
            )
    index = read_json(folder / _INDEX)
    return files, {part: index[part] for part in PARTS if part in index}


def pipeline_index(parts: Mapping[str, Any]) -> dict[str, Any]:
    """`model_index.json` of the stock pipeline that runs the converted model.

    Args:
        parts: the classes of the parts beside the transformer.
    """
    named = {
        "_class_name": conditionings.get(CONDITIONING).stock_pipeline,
        "_diffusers_version": diffusers.__version__,
    }
    return {**named, **parts, "transformer": ["diffusers", "FluxTransformer2DModel"]}
