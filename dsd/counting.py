"""Parameters and floating-point operations of training and drawing, counted without weights.

Models are built from their configurations on torch's meta device: the real classes with shapes and no memory.
One step runs through the same `Student` and `Conditioning` as in training, and PyTorch's counter adds up its
matrix products, attention's too. FLUX.1-dev takes seconds and no download.
"""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from dsd import mini
from dsd.backbones.base import Backbone, Batch, Reference, Text
from dsd.backbones.flux import FluxBackbone
from dsd.conditioning.base import Conditioning
from dsd.student import Student

CONFIGS = Path(__file__).parent / "configs"
"""Folders of published configurations without weights: FLUX.1-dev and two vision models."""
_HUB_IDS = {"black-forest-labs/FLUX.1-dev": "flux.1-dev"}
_INDEX = "model_index.json"
_NETWORKS = {
    "denoiser": ("transformer",),
    "vae": ("vae",),
    "text": ("text_encoder", "text_encoder_2"),
}
BLOCKS = (FluxTransformerBlock, FluxSingleTransformerBlock)


@dataclass(frozen=True, kw_only=True)
class Count:
    """What a student is made of, and what a batch costs it.

    A multiplication and an addition are two operations. Matrix products and convolutions are counted,
    attention as its two products (four in the backward pass; fused kernels repeat one of them). Norms,
    activations and the optimiser are not. What is encoded once for a picture or a data set (latents, text,
    vision tokens) is in none of the numbers, nor are the frozen models that do it.

    Attributes:
        base_parameters: of the base's denoiser.
        added_parameters: that conditioning and adapters add to it or put beside it.
        trained_parameters: those of both that are trained.
        num_tokens: in the denoiser's attention, for each element of the batch: text and image.
        forward_tflop: of one prediction, adapters unmerged, networks beside the denoiser included.
        step_tflop: of one training step: forward, recomputation where gradients are checkpointed, backward.
        formula_tflop: of one prediction by `forward_tflop`.
    """

    base_parameters: int
    added_parameters: int
    trained_parameters: int
    num_tokens: int
    forward_tflop: float
    step_tflop: float
    formula_tflop: float


def count(
    base: str | PathLike[str] | Backbone = "flux.1-dev",
    conditioning: str | Mapping[str, Any] | Conditioning = "parallel",
    *,
    height: int = 512,
    width: int = 512,
    batch_size: int = 1,
    text_tokens: int = 512,
    num_references: int = 1,
    reference: Reference | None = None,
    **student: Any,
) -> Count:
    """Count parameters, one prediction and one training step.

    Args:
        base: as `skeleton` takes it, or a backbone whose parts are on the meta device.
        conditioning: as `Student` takes it.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        batch_size: how many pairs.
        text_tokens: length of the captions.
        num_references: of each pair.
        reference: as `blank_batch` takes it.
        student: further arguments of `Student`: `lora`, `train`, `gradient_checkpointing`.

    Raises:
        FileNotFoundError, LookupError, TypeError, ValueError: as `skeleton`, `blank_batch` and `Student`.
    """
    backbone = base if isinstance(base, Backbone) else skeleton(base)
    assert backbone.denoiser is not None, "a denoiser on the meta device"
    num_base = sum(p.numel() for p in backbone.denoiser.parameters())
    built = meta_student(backbone, conditioning, **student)
    batch = blank_batch(
        built,
        height,
        width,
        batch_size=batch_size,
        text_tokens=text_tokens,
        num_references=num_references,
        reference=reference,
    )
    lengths: list[int] = []

    def look(module: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        lengths.append(given["hidden_states"].shape[1] + given["encoder_hidden_states"].shape[1])

    with built.denoiser.register_forward_pre_hook(look, with_kwargs=True), torch.no_grad():
        forward = tflop(lambda: _loss(built, batch))
    step = tflop(lambda: _loss(built, batch).backward())
    modules = (built.denoiser, built.conditioning)
    everything = {id(p): p.numel() for module in modules for p in module.parameters()}
    num_blocks = sum(isinstance(part, BLOCKS) for module in modules for part in module.modules())
    return Count(
        base_parameters=num_base,
        added_parameters=sum(everything.values()) - num_base,
        trained_parameters=sum(p.numel() for p in built.parameters() if p.requires_grad),
        num_tokens=lengths[0],
        forward_tflop=forward,
        step_tflop=step,
        formula_tflop=batch_size * forward_tflop(built.denoiser.inner_dim, num_blocks, lengths[0]),
    )


def forward_tflop(width: int, num_blocks: int, num_tokens: int) -> float:
    r"""One prediction of a FLUX model in TFLOP, by formula: $B (24 w^2 L + 4 w L^2) / 10^{12}$.

    A block of either kind has $12 w^2$ weights for each token: four projections of attention and a
    feed-forward layer of width 4 w. Embedders, the output layer and the blocks' modulation, which is computed
    once for a picture, are left out.

    Args:
        width: w, of a token.
        num_blocks: B, double and single ones, a ControlNet's among them.
        num_tokens: L, text and image.
    """
    return num_blocks * (24 * width**2 * num_tokens + 4 * width * num_tokens**2) / 1e12


def skeleton(
    base: str | PathLike[str] = "flux.1-dev", parts: Sequence[str] = ("denoiser", "vae")
) -> Backbone:
    """A FLUX model on the meta device, from its configuration alone.

    Args:
        base: a configuration inside dsd ("flux.1-dev", or its id on the Hub), "mini", or a folder as
            `FluxPipeline.save_pretrained` writes it, with weights or without.
        parts: which parts to make: any of "denoiser", "vae" and "text".

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folder = _folder(base)
    backbone = FluxBackbone(str(folder), parts=())
    index = json.loads((folder / _INDEX).read_text())
    for component in [name for part in parts for name in _NETWORKS[part]]:
        package, name = index[component]
        cls = getattr(importlib.import_module(package), name)
        with torch.device("meta"):
            if package == "diffusers":
                network = cls.from_config(cls.load_config(folder / component))
            else:
                network = cls(cls.config_class.from_pretrained(folder / component))
        setattr(backbone, "denoiser" if component == "transformer" else component, network.eval())
    return backbone.requires_grad_(False)


def meta_student(
    base: str | PathLike[str] | Backbone = "flux.1-dev",
    conditioning: str | Mapping[str, Any] | Conditioning = "parallel",
    **arguments: Any,
) -> Student:
    """A student of `skeleton(base)`.

    Args:
        base: what `skeleton` takes, or a backbone whose parts are on the meta device.
        conditioning: as the student takes it.
        arguments: further ones of `Student`, such as `lora`, `train` and `gradient_checkpointing`.

    Raises:
        FileNotFoundError: as `skeleton`.
        LookupError, ValueError: as `Student`.
    """
    backbone = base if isinstance(base, Backbone) else skeleton(base)
    with torch.device("meta"):
        return Student(base=backbone, conditioning=conditioning, **arguments)


def blank_batch(
    student: Student,
    height: int,
    width: int,
    *,
    batch_size: int = 1,
    text_tokens: int = 512,
    num_references: int = 1,
    reference: Reference | None = None,
) -> Batch:
    """Encoded pairs of the right shapes, on the CPU and all ones.

    Args:
        student: of `meta_student`.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        batch_size: how many pairs.
        text_tokens: length of the captions.
        num_references: of each pair.
        reference: the encoded references, of which the shapes count; None to let the conditioning encode
            blank pictures on the meta device. A vision model that needs real pictures cannot.

    Raises:
        ValueError: if the conditioning does not take so many references.
    """
    backbone, method = student.backbone, student.conditioning
    with torch.device("meta"), torch.no_grad():
        blank = torch.empty(batch_size, 3, height, width)
        pixels = method.prepare([blank] * num_references, height, width)
        reference = method.encode(backbone, pixels) if reference is None else reference
        target = method.encode_target(backbone, pixels, blank)
    return Batch(
        ids=[str(i) for i in range(batch_size)],
        reference=reference.map(lambda x: torch.ones(x.shape)),
        target=torch.ones(target.shape),
        text=blank_text(student, batch_size, text_tokens=text_tokens),
    )


def blank_text(student: Student, batch_size: int, *, text_tokens: int = 512) -> Text:
    """Encoded captions of the right shapes, on the CPU and all ones.

    Args:
        student: of `meta_student`.
        batch_size: how many captions.
        text_tokens: their length.
    """
    config = student.denoiser.config
    return Text(
        tokens=torch.ones(batch_size, text_tokens, config.joint_attention_dim),
        pooled=torch.ones(batch_size, config.pooled_projection_dim),
    )


def tflop(run: Callable[[], Any]) -> float:
    """TFLOP of what `run` computes on the meta device, its backward passes included."""
    with FlopCounterMode(display=False) as counter, MetaWins():  # type: ignore[no-untyped-call]
        run()
    return float(counter.get_total_flops() / 1e12)


class MetaWins(TorchDispatchMode):
    """Inside, an operation on meta tensors and others takes the others for meta tensors too.

    So a conditioning may look at the values of its inputs, which are real and small, while its networks and
    the denoiser have none.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        kwargs = dict(kwargs or {})
        devices = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if "meta" in devices and len(devices) > 1:
            args, kwargs = tree_map_only(
                Tensor, lambda x: x if x.is_meta else torch.empty_like(x, device="meta"), (args, kwargs)
            )
        return func(*args, **kwargs)


def _loss(student: Student, batch: Batch) -> Tensor:
    return student.losses(batch, torch.Generator().manual_seed(0), dropout=False)[0]


def _folder(base: str | PathLike[str]) -> Path:
    name = _HUB_IDS.get(str(base), str(base))
    if name == "mini":
        return Path(mini.path())
    folder = CONFIGS / name if (CONFIGS / name / _INDEX).is_file() else Path(name).expanduser()
    if not (folder / _INDEX).is_file():
        shipped = ", ".join(sorted(repr(path.parent.name) for path in CONFIGS.glob(f"*/{_INDEX}")))
        raise FileNotFoundError(
            f"There is no configuration {str(base)!r}. Give {shipped}, 'mini', or a folder as "
            "FluxPipeline.save_pretrained writes it; weights are not needed."
        )
    return folder
