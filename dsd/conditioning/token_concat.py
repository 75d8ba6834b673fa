"""Clean reference tokens beside the noisy ones, in one sequence."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsd import pixels
from dsd.backbones.base import Backbone, Pixels, Reference, ReferencePixels, Text
from dsd.backbones.packing import grid_ids, pack, unpack
from dsd.conditioning.base import Canvas, Conditioning, Inputs, Times, one_of

Ids = Float[Tensor, "m 3"]
_UNIT_PX = 16


class TokenConcat(Conditioning):
    """The sequence is [text, noisy target, reference, reference, ...]; the target's velocity alone is read.

    Attention over all tokens carries the identity over; the time shift follows the target's tokens alone.
    Nothing is added to the denoiser, so LoRA or full training does the learning, and at the start a shown
    reference is not yet understood. Reference tokens share the target's time and guidance, as in Kontext and
    UNO.

    Schemes differ in the position ids (index, row, column) of a reference token at (i, j), in tokens:

    - "kontext": (1, i, j), for every reference, as FLUX.1 Kontext. A saved student draws the same in
      `FluxKontextPipeline`.
    - "uno": (0, i + height, j + width): each reference is moved past the target and all earlier references,
      by `shift` along both axes or one.
    - "omini": (0, s (i + rows) + (s - 1) / 2, s (j + columns) + (s - 1) / 2) with `offset` and `scale`, the
      positions of OminiControl. Its second time, 0 for reference tokens, is not there: stock classes know one
      time a sample.
    - "none": (0, i, j), on top of the target's own.

    A reference of zeros is no reference: its tokens are left out, or hidden by an attention mask where
    neighbours in the batch have one. So guidance and dropout see exactly the base model on text alone, which
    is also what the stock pipeline draws without an image.

    Args:
        id_scheme: which of these.
        shift: of "uno": "diagonal", "rows" or "columns".
        offset: of "omini": (rows, columns) in reference tokens. None: (0, minus the reference's width), to
            the left of the target, as OminiControl has it for subjects; (0, 0) is its choice for aligned
            pairs.
        scale: of "omini": target tokens along the side of a reference token; 2 for references of half size.
        fit: the size of a reference. "cover" and "contain" bring it to the target's frame, "area" to about
            the frame's area in its own aspect, "keep" leaves it, cut to multiples of 16 px.

    Raises:
        ValueError: for a choice that does not exist, or an argument that the scheme does not use.

    References:
        Black Forest Labs, *FLUX.1 Kontext*, 2025, https://arxiv.org/abs/2506.15742; Wu et al., *UNO*, 2025,
        https://arxiv.org/abs/2504.02160; Tan et al., *OminiControl*, 2024, https://arxiv.org/abs/2411.15098.
    """

    takes_several: ClassVar[bool] = True
    starts_as_base = False

    def __init__(
        self,
        id_scheme: Literal["kontext", "uno", "omini", "none"] = "kontext",
        shift: Literal["diagonal", "rows", "columns"] | None = None,
        offset: Sequence[float | int] | None = None,
        scale: float | int | None = None,
        fit: Literal["cover", "contain", "area", "keep"] = "cover",
    ) -> None:
        super().__init__()
        self.id_scheme = one_of("id_scheme", id_scheme, ("kontext", "uno", "omini", "none"))
        given = {"shift": shift, "offset": offset, "scale": scale}
        used = {"uno": ("shift",), "omini": ("offset", "scale")}.get(id_scheme, ())
        if idle := [name for name, value in given.items() if value is not None and name not in used]:
            raise ValueError(
                f"id_scheme={id_scheme!r} does not use {' and '.join(idle)}. It takes: "
                f"{', '.join(used) or 'no further argument'}."
            )
        self.shift = one_of("shift", shift or "diagonal", ("diagonal", "rows", "columns"))
        if offset is not None and len(offset) != 2:
            raise ValueError(f"`offset` is (rows, columns); got {list(offset)}.")
        self.offset = None if offset is None else (float(offset[0]), float(offset[1]))
        self.scale = 1.0 if scale is None else float(scale)
        if self.scale <= 0:
            raise ValueError(f"`scale` must be above 0; got {scale}.")
        self.fit = one_of("fit", fit, ("cover", "contain", "area", "keep"))
        self.stock_pipeline = "FluxKontextPipeline" if id_scheme == "kontext" else None

    def install(self, denoiser: nn.Module) -> None:
        """Nothing is added."""

    def fitted(self, reference: Pixels, height: int, width: int) -> pixels.FramePixels:
        """In the size that `fit` says."""
        if self.fit == "area":
            return pixels.fill_area(reference, height, width, _UNIT_PX)
        if self.fit == "keep":
            return pixels.keep(reference, _UNIT_PX)
        return pixels.FITS[self.fit](reference, height, width)

    def encode(self, backbone: Backbone, reference: ReferencePixels) -> Reference:
        """The latents of each, by itself."""
        latents = backbone.encode_image(reference.flatten(0, -4))
        return Reference(latents=latents.unflatten(0, reference.shape[:-3]))

    def inputs(
        self, x_t: Canvas, t: Times, reference: Reference, text: Text, guidance: float | Times = 1.0
    ) -> Inputs:
        """Noisy tokens, then those of all references that any element of the batch has."""
        assert reference.latents is not None
        latents = reference.latents if reference.latents.ndim == 5 else reference.latents[:, None]
        shown = latents.flatten(2).any(dim=-1)
        latents, shown = latents[:, shown.any(0)], shown[:, shown.any(0)]
        noisy, ids = pack(x_t), grid_ids(x_t.shape[-2], x_t.shape[-1], x_t.device)
        clean = [pack(one.to(x_t.dtype)) for one in latents.unbind(1)]
        tokens = torch.cat([noisy, *clean], dim=1)
        ids = torch.cat([ids, *self._ids(x_t, latents)])
        if shown.all():
            return Inputs(tokens=tokens, ids=ids)
        visible = shown.repeat_interleave(clean[0].shape[1], dim=1)
        mask = _mask(visible, text.tokens.shape[1] + noisy.shape[1])
        return Inputs(tokens=tokens, ids=ids, arguments={"joint_attention_kwargs": {"attention_mask": mask}})

    def select(self, output: Float[Tensor, "b n k"], x_t: Canvas) -> Canvas:
        """The first tokens, as many as the canvas has."""
        height, width = x_t.shape[-2:]
        return unpack(output[:, : height * width // 4], height, width)

    def _ids(self, x_t: Canvas, latents: Float[Tensor, "b k c h w"]) -> list[Ids]:
        """Position ids of each reference."""
        height, width = (side // 2 for side in x_t.shape[-2:])
        rows, columns = (side // 2 for side in latents.shape[-2:])
        own = grid_ids(*latents.shape[-2:], x_t.device)
        found = []
        for number in range(latents.shape[1]):
            if self.id_scheme == "kontext":
                found.append(own + own.new_tensor([1, 0, 0]))
            elif self.id_scheme == "uno":
                past = own.new_tensor([0, height + number * rows, width + number * columns])
                along = {"diagonal": [0, 1, 1], "rows": [0, 1, 0], "columns": [0, 0, 1]}[self.shift]
                found.append(own + past * own.new_tensor(along))
            elif self.id_scheme == "omini":
                offset = own.new_tensor([0, *(self.offset or (0, -columns))])
                middle = own.new_tensor([0, 1, 1]) * (self.scale - 1) / 2
                found.append((own + offset) * self.scale + middle)
            else:
                found.append(own)
        return found


def _mask(visible: Bool[Tensor, "b m"], num_before: int) -> Bool[Tensor, "b 1 1 n"]:
    """Which keys all queries may attend to: everything before the references, and those that are visible."""
    return torch.cat([visible.new_ones(len(visible), num_before), visible], dim=1)[:, None, None]
