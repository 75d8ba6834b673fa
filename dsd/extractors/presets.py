"""Published protocols' networks, each with its exact transform.

Every preset takes `model`, a folder or a name of its own for the weights, and `library`: "transformers" or
one of the others that have the same weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dsd.extractors import networks
from dsd.extractors.networks import Network


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network and what is done to a picture before it.

    Attributes:
        about: whose protocol it is.
        transform: one of `dsd.extractors.TRANSFORMS`.
        pooling: how transformers' tokens become one vector.
        models: where the weights are, by library.
    """

    about: str
    transform: str
    pooling: str
    models: Mapping[str, Mapping[str, Any]]

    def build(
        self,
        model: str | None = None,
        library: str = "transformers",
        revision: str | None = None,
        local_files_only: bool = False,
        *,
        device: torch.device,
    ) -> Network:
        """The network, its weights loaded now.

        Raises:
            LookupError: if that library has no such weights.
            OSError, ModuleNotFoundError: if the weights or the library are not there.
        """
        if library not in self.models:
            raise LookupError(f"There is no {library!r} of this preset. Known: {', '.join(self.models)}.")
        arguments = dict(self.models[library])
        if model is not None:
            arguments["pretrained" if library == "open_clip" else "model"] = model
        if library == "transformers":
            arguments.update(pooling=self.pooling, revision=revision, local_files_only=local_files_only)
        elif revision is not None or local_files_only:
            raise ValueError(f"`revision` and `local_files_only` are of transformers, not of {library!r}.")
        build = getattr(networks, library)
        found: Network = build(**arguments, transform=self.transform, device=device)
        return found


PRESETS: Mapping[str, Preset] = {
    "dreambooth": Preset(
        about="DreamBooth's DINO: ViT-S/16, class token, the official DINO's evaluation transform",
        transform="dino",
        pooling="cls",
        models={
            "transformers": {"model": "facebook/dino-vits16"},
            "timm": {"model": "vit_small_patch16_224.dino"},
        },
    ),
    "dreambench++/clip": Preset(
        about="DreamBench++'s CLIP-I and CLIP-T: ViT-B/32 of OpenAI, projected",
        transform="clip",
        pooling="projection",
        models={
            "transformers": {"model": "openai/clip-vit-base-patch32"},
            "open_clip": {"model": "ViT-B-32-quickgelu", "pretrained": "openai"},
        },
    ),
    "dreambench++/dino": Preset(
        about="DreamBench++'s DINO-I by its default: ViT-S/8, class token, the official DINO's transform",
        transform="dino",
        pooling="cls",
        models={
            "transformers": {"model": "facebook/dino-vits8"},
            "timm": {"model": "vit_small_patch8_224.dino"},
        },
    ),
    "dinov2": Preset(
        about="DINOv2 ViT-S/14, class token, as transformers prepares pictures; DreamBench++'s second DINO-I",
        transform="dinov2",
        pooling="cls",
        models={"transformers": {"model": "facebook/dinov2-small"}},
    ),
    "siglip2": Preset(
        about="SigLIP 2 so400m/14 at 384 px, attention-pooled, as open_clip prepares pictures",
        transform="siglip2",
        pooling="projection",
        models={"transformers": {"model": "google/siglip2-so400m-patch14-384"}},
    ),
}
"""By name. `dreambooth` is the protocol of https://arxiv.org/abs/2208.12242 as its authors describe it in
issue 3 of google/dreambooth; `dreambench++/...` are those of https://arxiv.org/abs/2406.16855."""
