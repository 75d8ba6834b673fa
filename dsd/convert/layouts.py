"""The two layouts of one and the same model, and the way from each to the other.

The release computes `x_embedder(x) + c_embedder(condition)`, token by token; stock diffusers computes
`x_embedder([x | condition])`. With W = [W_x | W_c] and b = b_x + b_c these are one function. Everything else
has the same names and shapes in both.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from dsd.convert.adapters import LORA_FILE, Adapter, read_adapters
from dsd.convert.checkpoint import Entry, Stored, read_config, read_folder

RELEASE_CLASS = "FluxTransformer2DConditionalModel"
STOCK_CLASS = FluxTransformer2DModel.__name__
_X, _C = "x_embedder", "c_embedder"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A folder whose headers are checked. No values are read yet.

    Attributes:
        folder: which has `transformer/` in it.
        config: of the stock class that fits the stored weights, `c_embedder` apart.
        tensors: by the names of the stock class, and `c_embedder.*`.
        released: whether it is the release's layout.
        adapters: by layer; of the LoRA file beside the transformer, if there is one.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    released: bool
    adapters: Mapping[str, Adapter]


def open_layout(folder: Path, with_adapters: bool = True) -> Layout:
    """Read the headers in a folder and check that they are of the release or of its stock form, and whole.

    Args:
        folder: with `transformer/` and perhaps the LoRA file in it.
        with_adapters: whether the LoRA file is wanted.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or of another model.
    """
    inner = folder / "transformer"
    config = read_config(inner)
    named = config.get("_class_name", STOCK_CLASS)
    if named not in (RELEASE_CLASS, STOCK_CLASS):
        raise ValueError(f"{inner} holds a {named}; give a {RELEASE_CLASS} or a {STOCK_CLASS}.")
    tensors, strays = _plain_names(inner, read_folder(inner))
    released = any(name.startswith(f"{_C}.") for name in tensors)
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    model = meta_model(inner, config)
    inputs, outputs = model.config.in_channels, model.config.out_channels or model.config.in_channels
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    if released:
        shapes |= {f"{_C}.weight": shapes[f"{_X}.weight"], f"{_C}.bias": shapes[f"{_X}.bias"]}
    elif inputs == outputs:
        raise ValueError(
            f"{inner} has no {_C}.* and {inputs} channels in and out: it is a plain FLUX transformer, or the "
            "file is not that of the release. Give the release's, or its stock form with twice the inputs."
        )
    _compare(inner, tensors, shapes)
    if inputs != (outputs if released else 2 * outputs):
        raise ValueError(
            f"{inner} has {inputs} input and {outputs} output channels. The release has as many of both, its "
            "stock form twice as many inputs. This is another model."
        )
    file = folder / LORA_FILE
    adapters = read_adapters(file, shapes) if with_adapters and file.is_file() else {}
    if with_adapters and strays and not adapters:
        raise FileNotFoundError(
            f"{inner} was saved with adapters, but {file} is missing, without which it is not the model that "
            'was trained. Download that file too, or leave the adapters out on purpose with lora="none".'
        )
    return Layout(folder=folder, config=config, tensors=tensors, released=released, adapters=adapters)


def is_release(folder: Path) -> bool:
    """Whether a folder says by its configuration or by its weights' names that it is of the release.

    Raises:
        ValueError, FileNotFoundError: if what it has under `transformer/` is damaged.
    """
    inner = folder / "transformer"
    if not (inner / "config.json").is_file():
        return False
    if read_config(inner).get("_class_name") == RELEASE_CLASS:
        return True
    return any(name.startswith(f"{_C}.") for name in read_folder(inner))


def meta_model(folder: Path, config: Mapping[str, Any]) -> FluxTransformer2DModel:
    """A stock transformer of that configuration, without memory for its weights.

    Raises:
        ValueError: if it is no configuration of one.
    """
    try:
        with torch.device("meta"):
            return FluxTransformer2DModel.from_config(dict(config))
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{folder / 'config.json'} is no configuration of FLUX: {error}") from error


def to_stock(layout: Layout, merge: bool) -> tuple[dict[str, Any], list[Entry]]:
    """Configuration and weights of the stock class.

    Args:
        layout: of the release.
        merge: add the adapters to the weights.

    Raises:
        ValueError: if adapters of the input layers are to be kept apart, where the stock class has one layer.
    """
    assert layout.released
    weights = _Weights(layout, merge)

    def joined() -> Tensor:
        return torch.cat([weights(f"{_X}.weight"), weights(f"{_C}.weight").to(weight.dtype)], dim=1)

    def added() -> Tensor:
        return (weights(f"{_X}.bias").float() + weights(f"{_C}.bias").float()).to(bias.dtype)

    weight, bias = layout.tensors[f"{_X}.weight"], layout.tensors[f"{_X}.bias"]
    out, channels = weight.shape
    entries = [weights.entry(name) for name in layout.tensors if not name.startswith((f"{_X}.", f"{_C}."))]
    entries += [
        Entry(name=f"{_X}.weight", shape=(out, 2 * channels), dtype=weight.dtype, make=joined),
        Entry(name=f"{_X}.bias", shape=bias.shape, dtype=bias.dtype, make=added),
    ]
    return {**layout.config, "in_channels": 2 * channels, "out_channels": channels}, entries


def to_release(layout: Layout, merge: bool) -> tuple[dict[str, Any], list[Entry]]:
    """Configuration and weights of the release's class.

    Only the sum of the two biases is known: `x_embedder` gets all of it and `c_embedder` zero.

    Args:
        layout: of the stock class.
        merge: add the adapters to the weights.

    Raises:
        ValueError: if adapters of the input layer are to be kept apart, where the release has two layers.
    """
    assert not layout.released
    weights = _Weights(layout, merge)

    def part(columns: slice) -> Callable[[], Tensor]:
        return lambda: weights(f"{_X}.weight")[:, columns]

    weight, bias = layout.tensors[f"{_X}.weight"], layout.tensors[f"{_X}.bias"]
    channels = weight.shape[1] // 2
    half = (weight.shape[0], channels)
    entries = [weights.entry(name) for name in layout.tensors if name != f"{_X}.weight"]
    entries += [
        Entry(name=f"{_X}.weight", shape=half, dtype=weight.dtype, make=part(slice(channels))),
        Entry(name=f"{_C}.weight", shape=half, dtype=weight.dtype, make=part(slice(channels, None))),
        Entry(
            name=f"{_C}.bias",
            shape=bias.shape,
            dtype=bias.dtype,
            make=lambda: torch.zeros(bias.shape, dtype=bias.dtype),
        ),
    ]
    config = {key: value for key, value in layout.config.items() if key != "out_channels"}
    return {**config, "in_channels": channels}, entries


class _Weights:
    """The values behind a layout's names, with or without the adapters."""

    def __init__(self, layout: Layout, merge: bool) -> None:
        if not merge and (inputs := {_X, _C} & set(layout.adapters)):
            raise ValueError(
                f"{layout.folder / LORA_FILE} adapts {' and '.join(sorted(inputs))}, and the two layouts "
                'differ in the input layers, so it cannot be kept beside the weights. Use lora="merge".'
            )
        self._tensors = layout.tensors
        self._adapters = {f"{module}.weight": x for module, x in layout.adapters.items()} if merge else {}

    def __call__(self, name: str) -> Tensor:
        value = self._tensors[name].load()
        return self._adapters[name].merged(value) if name in self._adapters else value

    def entry(self, name: str) -> Entry:
        """That tensor, as it is."""
        stored = self._tensors[name]
        return Entry(name=name, shape=stored.shape, dtype=stored.dtype, make=lambda: self(name))


def _plain_names(folder: Path, tensors: Mapping[str, Stored]) -> tuple[dict[str, Stored], int]:
    """Tensors by the names that they have without PEFT, and how many belong to adapters."""
    plain: dict[str, Stored] = {}
    strays = 0
    for key, stored in tensors.items():
        if any(part.startswith("lora_") for part in key.split(".")):
            strays += 1
            continue
        name = key.replace(".base_layer.", ".")
        if name in plain:
            raise ValueError(
                f"{folder} holds both {plain[name].key!r} and {key!r}. Files of several saves may be mixed: "
                "download all of them again."
            )
        plain[name] = stored
    if strays:
        logger.warning(
            "%s holds %d tensors of adapters among its weights. As in the release's own code they are not "
            "used; the adapters are those of %s.",
            folder,
            strays,
            LORA_FILE,
        )
    return plain, strays


def _compare(folder: Path, tensors: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]) -> None:
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    wrong = sorted(name for name in tensors.keys() & shapes.keys() if tensors[name].shape != shapes[name])
    faults = []
    if missing:
        faults.append(f"{len(missing)} tensors are missing, such as {missing[0]!r}")
    if unknown:
        faults.append(f"{len(unknown)} are unknown, such as {unknown[0]!r}")
    if wrong:
        name = wrong[0]
        faults.append(
            f"{len(wrong)} have another shape, such as {name!r}: {tensors[name].shape}, not {shapes[name]}"
        )
    if faults:
        raise ValueError(
            f"The weights in {folder} do not fit its config.json: {'; '.join(faults)}. They are damaged or "
            "of another model: download both again."
        )
