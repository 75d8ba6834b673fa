"""The embedded small world: a drawn world of small characters, and a FLUX pipeline of a few million weights
that knows it.

`path()` is a diffusers `FluxPipeline` folder like any other; `base="mini"` names it everywhere.
"""

from pathlib import Path

__all__ = ["identity_encoder_path", "path"]

_WEIGHTS = Path(__file__).parent / "weights"


def path() -> Path:
    """The folder of the embedded `FluxPipeline`.

    Raises:
        FileNotFoundError: when the package was installed without its weights.
    """
    return _part("flux", "model_index.json")


def identity_encoder_path() -> Path:
    """The folder of the embedded identity encoder.

    Raises:
        FileNotFoundError: when the package was installed without its weights.
    """
    return _part("identity", "config.json")


def _part(name: str, proof: str) -> Path:
    folder = _WEIGHTS / name
    if not (folder / proof).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {proof}: this copy of dsd came without its weights. "
            "Install the wheel again, or rebuild them with `python -m dsd.mini.train`."
        )
    return folder
