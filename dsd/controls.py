"""What diffusers has for memory, speed and style, on our pipeline: its own methods on the same parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch

from dsd.backbones.base import Backbone
from dsd.conditioning.base import Conditioning

_ONE_STATE = ("FasterCacheConfig", "PyramidAttentionBroadcastConfig")


class StockControls:
    """The parts under diffusers' names, and a stock pipeline that shares them.

    What a diffusers model can do, its `transformer` does here: `enable_cache`, `enable_layerwise_casting`,
    `set_attention_backend`, `compile_repeated_blocks`. What a pipeline can do, `stock` does.
    """

    backbone: Backbone
    conditioning: Conditioning
    current_timestep: torch.Tensor | None = None
    """Of the running step, from 1000 to 0, as FasterCache asks for it; None in between."""
    _stock: Any = None

    @property
    def transformer(self) -> Any:
        """The denoiser."""
        return self.backbone.denoiser

    @property
    def vae(self) -> Any:
        """The autoencoder, such as for `enable_tiling`."""
        return self.components["vae"]

    @property
    def components(self) -> dict[str, Any]:
        """All parts by diffusers' names, loaded if need be."""
        parts = {**self.backbone.components(), **self.conditioning.components()}
        return {**parts, "transformer": self.transformer}

    @property
    def stock(self) -> Any:
        """A stock pipeline over the same parts: what is done to it is done to them."""
        if self._stock is None:
            kind = getattr(diffusers, self.conditioning.stock_pipeline or "FluxPipeline")
            self._stock = kind(**self.components)
        return self._stock

    def enable_model_cpu_offload(self, **arguments: Any) -> None:
        """Keep each model in main memory until its turn; see diffusers."""
        self.stock.enable_model_cpu_offload(**arguments)

    def enable_sequential_cpu_offload(self, **arguments: Any) -> None:
        """Keep each layer in main memory until its turn; see diffusers."""
        self.stock.enable_sequential_cpu_offload(**arguments)

    def enable_group_offload(self, onload_device: torch.device, **arguments: Any) -> None:
        """Keep groups of layers in main memory until their turn; see diffusers."""
        self.stock.enable_group_offload(onload_device, **arguments)

    def load_lora_weights(self, source: Any, **arguments: Any) -> None:
        """Put a LoRA of FLUX.1 on the denoiser, beside the student's own; see diffusers. It leaves alone the
        inputs that the student has and the base has not.
        """
        self.stock.load_lora_weights(source, **arguments)

    def set_adapters(self, names: str | list[str], weights: float | list[float] | None = None) -> None:
        """Choose which LoRAs are in effect, and how strongly; see diffusers."""
        self.stock.set_adapters(names, weights)

    def delete_adapters(self, names: str | list[str]) -> None:
        """Take LoRAs off again; see diffusers."""
        self.stock.delete_adapters(names)

    def _check_cache(self) -> None:
        """Refuse caches that would take one prediction of a guided step for another."""
        cache = type(getattr(self.transformer, "_cache_config", None)).__name__
        if self.transformer.is_cache_enabled and cache in _ONE_STATE:
            raise ValueError(
                f"{cache} keeps one state for all predictions of a step, and image or text guidance makes "
                "several. Use FirstBlockCacheConfig or TaylorSeerCacheConfig, or leave both at 1."
            )

    @contextmanager
    def _working(self) -> Iterator[torch.device]:
        """A context for one call: gives the device that works. Whatever happens in it, caches forget what
        they kept, and offloaded models go back.
        """
        if self._stock is not None:
            self.backbone.execution_device = self._stock._execution_device
            if self.backbone.execution_device.type != "cpu":
                self._bring_conditioning(self.backbone.execution_device)
        try:
            yield self.backbone.device
        finally:
            self.current_timestep = None
            if getattr(self.transformer, "is_cache_enabled", False):
                self.transformer._reset_stateful_cache()
            if self._stock is not None:
                self._stock.maybe_free_model_hooks()

    def _bring_conditioning(self, device: torch.device) -> None:
        """Networks of the conditioning that are no component have no hooks to bring them."""
        known = set(map(id, self.components.values()))
        for module in self.conditioning.children():
            if id(module) not in known:
                module.to(device)
