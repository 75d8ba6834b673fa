"""Where a model comes from, and in which numbers."""

from pathlib import Path

import torch


def dtype_of(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of that name.

    Raises:
        ValueError: if there is none.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ValueError(f"Unknown dtype {dtype!r}. Use one such as 'float32', 'bfloat16' or 'float16'.")
    return found


def folder_or_id(base: str) -> str:
    """The folder or Hub id that `base` names.

    Raises:
        FileNotFoundError: if it is a folder that does not exist or holds no pipeline.
    """
    if base == "mini":
        from dsd import mini

        return str(mini.path())
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise FileNotFoundError(
                f"The folder {base!r} has no model_index.json. Give one of FluxPipeline.save_pretrained."
            )
        return str(folder)
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"There is no folder {base!r}, and it is no Hub id. Give an existing folder, an id such as "
            "'black-forest-labs/FLUX.1-dev', or 'mini'."
        )
    return base


def is_local(name: str) -> bool:
    """Whether a name of a model means a file or folder of this machine, rather than an id on the Hub or a
    model inside dsd.
    """
    if name == "mini":
        return False
    if "://" in name:
        return False
    path_like = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    return path_like or Path(name).exists()
