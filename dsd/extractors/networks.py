"""Models of transformers, open_clip and timm as functions from pictures to rows of numbers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor, nn

from dsd import mini
from dsd.extractors.transforms import Transform, named

Pooling = Literal["cls", "mean", "pooler", "projection"]
"""How the tokens of a transformers model become one vector: the class token; the mean of the others; the
model's own pooled output; or that, projected to where CLIP and SigLIP compare pictures with words."""

_CLASS_TOKENS = frozenset({"cls_token", "class_embedding"})
_Pixels = Callable[[list[Image.Image]], Tensor]
_TransformSpec = str | Mapping[str, Any] | Transform


class Network:
    """What `dsd.extractors.Extractor` asks of a function, from a model's parts.

    Args:
        pixels: from RGB pictures to what the model takes, (n, 3, height, width).
        embed: from that to (n, d).
        preprocessing: what `pixels` does, in words.
        patches: from RGB pictures to (n, rows, columns, d), if the model can.
        texts: from words to (n, d) that compare with pictures, if the model can.
        count_tokens: of words, with those that begin and end them.
        max_tokens: how many of them the model reads.
    """

    def __init__(
        self,
        pixels: _Pixels,
        embed: Callable[[Tensor], Tensor],
        preprocessing: str,
        patches: _Pixels | None = None,
        texts: Callable[[list[str]], Tensor] | None = None,
        count_tokens: Callable[[list[str]], list[int]] | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.pixels, self.embed, self.preprocessing, self.patches = pixels, embed, preprocessing, patches
        self.texts, self.count_tokens, self.max_tokens = texts, count_tokens, max_tokens

    def __call__(self, images: list[Image.Image]) -> Tensor:
        """One row a picture."""
        return self.embed(self.pixels(images))

    def masks(self, masks: list[Image.Image]) -> Tensor:
        """Masks as white on black pictures that go through the same steps, whatever these are."""
        ends = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white")]
        black, white = (self.pixels([end])[0, 0].median() for end in ends)
        seen = torch.stack([self.pixels([mask.convert("RGB")])[0, 0] for mask in masks])
        return ((seen - black) / (white - black)).clamp(0, 1)


def small_world(*, device: torch.device) -> Network:
    """The identity encoder inside dsd."""
    return transformers(str(mini.identity_encoder_path()), pooling="pooler", device=device)


def transformers(
    model: str | Path,
    pooling: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    transform: _TransformSpec | None = None,
    *,
    device: torch.device,
) -> Network:
    """A vision model of transformers with its image processor, or with another transform.

    `pooling` is by default the projection where there is one, else the class token where there is one, else
    the model's own pooled output, as of a convolutional network.
    """
    if pooling is not None and pooling not in get_args(Pooling):
        raise ValueError(f"Unknown pooling {pooling!r}. Allowed: {', '.join(get_args(Pooling))}.")
    _check_folder(str(model))
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    source = {"revision": revision, "local_files_only": local_files_only}
    chosen = None if transform is None else named(transform)
    processor = AutoImageProcessor.from_pretrained(model, **source) if chosen is None else None
    whole, report = AutoModel.from_pretrained(model, output_loading_info=True, **source)
    whole = whole.float().eval().to(device)
    projects = hasattr(whole, "get_image_features")
    vision = whole.vision_model if projects else whole
    prefix = _prefix(vision)
    pooled = pooling or ("projection" if projects else "cls" if _CLASS_TOKENS & set(prefix) else "pooler")
    _check_pooling(pooled, str(model), projects, prefix, report["missing_keys"])

    def pixels(images: list[Image.Image]) -> Tensor:
        if processor is None:
            return _stacked(chosen, images, device)
        return processor(images=images, return_tensors="pt")["pixel_values"].to(device)

    def tokens(values: Tensor) -> Tensor:
        """(n, tokens, d), or (n, d, rows, columns) of a convolutional network."""
        return vision(pixel_values=values).last_hidden_state

    def embed(values: Tensor) -> Tensor:
        if pooled == "projection":
            return _features(whole.get_image_features(pixel_values=values))
        if pooled == "pooler":
            return vision(pixel_values=values).pooler_output.flatten(1)
        found = tokens(values)
        if found.ndim == 4:
            found = found.flatten(2).transpose(1, 2)
        return found[:, 0] if pooled == "cls" else found[:, sum(prefix.values()) :].mean(1)

    def patches(images: list[Image.Image]) -> Tensor:
        values = pixels(images)
        found = tokens(values)
        if found.ndim == 4:
            return found.permute(0, 2, 3, 1)
        return _grid(found[:, sum(prefix.values()) :], values, vision.config.patch_size)

    steps = str(chosen) if chosen is not None else f"{type(processor).__name__} of {model}"
    if not projects:
        return Network(pixels, embed, steps, patches)
    config = whole.config.text_config
    limit = int(config.max_position_embeddings)
    filled = config.model_type.startswith(
        "siglip"
    )  # trained on texts of one length, filled up and not masked
    tokenizer = cache(lambda: AutoTokenizer.from_pretrained(model, **source))

    def texts(given: list[str]) -> Tensor:
        padding = "max_length" if filled else True
        found = tokenizer()(given, padding=padding, truncation=True, max_length=limit, return_tensors="pt")
        names = ("input_ids",) if filled else ("input_ids", "attention_mask")
        return _features(whole.get_text_features(**{name: found[name].to(device) for name in names}))

    return Network(pixels, embed, steps, patches, texts, lambda given: _lengths(tokenizer(), given), limit)


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    return [len(found) for found in tokenizer(texts, verbose=False)["input_ids"]]


def _features(found: Any) -> Tensor:
    """Of transformers 4, a tensor; of 5, an output that holds it."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _grid(tokens: Tensor, values: Tensor, patch: Any) -> Tensor:
    """(n, rows * columns, d) as (n, rows, columns, d)."""
    tall, wide = (patch, patch) if isinstance(patch, int) else patch
    return tokens.unflatten(1, (values.shape[-2] // tall, values.shape[-1] // wide))


def _stacked(transform: Any, images: Sequence[Image.Image], device: torch.device) -> Tensor:
    found = [transform(image) for image in images]
    if len({x.shape for x in found}) > 1:
        sizes = sorted({tuple(x.shape[1:]) for x in found})
        raise ValueError(
            f"The transform leaves pictures of different sizes: {sizes}. Give it a `crop_px`, or squash=True."
        )
    return torch.stack(found).to(device)


def _check_folder(model: str) -> None:
    path = Path(model).expanduser()
    if not path.is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise FileNotFoundError(
            f"There is no folder {model!r}. Give one with a vision model of transformers, or a Hub id "
            "such as 'facebook/dinov2-small'."
        )


def _prefix(vision: nn.Module) -> dict[str, int]:
    """How many tokens of each kind stand before those of the patches."""
    names = (*_CLASS_TOKENS, "distillation_token", "register_tokens")
    found = {name.rpartition(".")[2]: parameter for name, parameter in vision.named_parameters()}
    return {name: found[name].shape[1] if found[name].ndim == 3 else 1 for name in names if name in found}


def _check_pooling(
    pooling: str, model: str, projects: bool, prefix: Mapping[str, int], missing: Collection[str]
) -> None:
    if pooling == "projection" and not projects:
        raise ValueError(f"{model} projects nothing. Give the pooling 'cls', 'mean' or 'pooler'.")
    if pooling == "cls" and not _CLASS_TOKENS & set(prefix):
        raise ValueError(f"{model} has no class token. Give the pooling 'mean' or 'pooler'.")
    needed = [name for name in missing if pooling == "pooler" or "pooler" not in name]
    if needed:  # transformers would make them up
        raise ValueError(
            f"{model} lacks weights that the pooling {pooling!r} needs, such as {sorted(needed)[0]!r}. "
            "Give another pooling, such as 'cls'."
        )


def open_clip(
    model: str,
    pretrained: str | None = None,
    transform: _TransformSpec | None = None,
    *,
    device: torch.device,
) -> Network:
    """A model of open_clip, with its own evaluation transform or another."""
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise _not_installed("open_clip") from error
    if pretrained is None and ":" not in model:  # open_clip would make the weights up
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise ValueError(
            f"The extractor 'open_clip' needs `pretrained`: a file of weights or, for {model!r}, one of "
            f"{', '.join(tags) or 'none'}."
        )
    # The last of the transforms is that of evaluation; the other one cuts and turns at random.
    net, _, own = open_clip.create_model_and_transforms(model, pretrained=pretrained, device=device)
    net.eval()
    chosen = own if transform is None else named(transform)

    def pixels(images: list[Image.Image]) -> Tensor:
        return _stacked(chosen, images, device)

    steps = str(chosen) if transform is not None else f"open_clip's transform of {model}"
    tokenizer = cache(lambda: open_clip.get_tokenizer(model))

    def texts(given: list[str]) -> Tensor:
        return net.encode_text(tokenizer()(given).to(device))

    def count_tokens(given: list[str]) -> list[int]:
        if hasattr(tokenizer(), "encode"):
            return [len(tokenizer().encode(text)) + 2 for text in given]  # the two that begin and end it
        return _lengths(tokenizer().tokenizer, given)

    limit = int(net.context_length)
    return Network(pixels, net.encode_image, steps, None, texts, count_tokens, limit)


def timm(
    model: str, pretrained: bool = True, transform: _TransformSpec | None = None, *, device: torch.device
) -> Network:
    """A model of timm without its classifier, with its own evaluation transform or another."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise _not_installed("timm") from error
    net = timm.create_model(model, pretrained=pretrained, num_classes=0).eval().to(device)
    own = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    chosen = own if transform is None else named(transform)

    def pixels(images: list[Image.Image]) -> Tensor:
        return _stacked(chosen, images, device)

    def patches(images: list[Image.Image]) -> Tensor:
        values = pixels(images)
        found = net.forward_features(values)
        if found.ndim == 4:
            return found.permute(0, 2, 3, 1) if found.shape[1] == net.num_features else found
        return _grid(found[:, getattr(net, "num_prefix_tokens", 0) :], values, net.patch_embed.patch_size)

    steps = str(chosen) if transform is not None else f"timm's transform of {model}"
    return Network(pixels, net, steps, patches)


def _not_installed(extra: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"The extractor {extra!r} needs a package that is not installed. "
        f"Install it: pip install 'diffusion-self-distillation[{extra}]'"
    )
