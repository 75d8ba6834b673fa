"""How much an error in the latents shows: the measure of the teacher's loss.

Latents differ in how much their errors change the picture. A squared error weighted by that has the same
minimum as the plain one (the expected velocity), but a small model spends itself on what is seen: with plain
errors colours stayed wrong for long.
"""

import torch
from diffusers import AutoencoderKL, FluxPipeline
from jaxtyping import Float
from torch import Tensor

from dsd.mini.train.align import PANEL_TOKENS
from dsd.mini.train.examples import apart

SEEN = 0.7
"""Share of the loss that goes by what is seen; the rest is the plain squared error."""
BROAD = 4.0
"""Weight of `broad_error` beside the error itself."""
_NUDGE = 0.3


@torch.no_grad()
def error_metric(
    vae: AutoencoderKL, latents: Float[Tensor, "n c h w"], generator: torch.Generator
) -> Float[Tensor, "d d"]:
    r"""A matrix $A$ so that $|eA|^2$, averaged over a token's $d$ entries, is the weighted error of $e$.

    $AA^T = (1 - s) I + s\,d\,G / \mathrm{tr}\,G$ with $s$ = `SEEN` and $G$ the mean Gram matrix of what small
    changes of one token's entries do to the decoded pixels.

    Args:
        vae: the decoder.
        latents: of some panels, scaled to unit variance.
        generator: picks the tokens.
    """
    n, c, h, w = latents.shape
    tokens = FluxPipeline._pack_latents(latents, n, c, h, w)
    size = tokens.shape[-1]
    gram = torch.zeros(size, size)
    for panel in tokens:
        place = int(torch.randint(len(panel), (), generator=generator))
        changed = panel.repeat(size + 1, 1, 1)
        changed[torch.arange(size), place, torch.arange(size)] += _NUDGE
        side = 16 * PANEL_TOKENS
        canvas = FluxPipeline._unpack_latents(changed, side, side, 8)
        pixels = vae.decode(canvas / vae.config.scaling_factor + vae.config.shift_factor).sample.flatten(1)
        moved = pixels[:size] - pixels[size:]
        gram += moved @ moved.T
    identity = torch.eye(size)
    weighted = (1 - SEEN) * identity + SEEN * size * gram / gram.trace()
    return torch.linalg.cholesky(weighted)


def mean_error(errors: Float[Tensor, "n tokens d"], asked: Float[Tensor, "n tokens 1"]) -> Tensor:
    """The mean squared error of the tokens that are asked for."""
    return (errors.square().mean(2, keepdim=True) * asked).sum() / asked.sum()


def broad_error(
    errors: Float[Tensor, "n tokens d"],
    asked: Float[Tensor, "n tokens 1"],
    metric: Float[Tensor, "d d"],
    layout: tuple[int, int],
) -> Tensor:
    """The weighted squared error of each panel's mean over its places, which is how far off its colours are;
    the mean of it over the panels that are asked for.

    It is a small part of all errors, but what tells two characters of one colour word apart. As the whole is
    a quadratic form of the errors still, its minimum is the same.
    """
    channels = apart(errors, layout).mean(1).unflatten(-1, (-1, 4)).mean(-1)  # a token packs 2 x 2 places
    seen = channels @ metric.unflatten(0, (-1, 4)).sum(1)
    panels = apart(asked, layout)[:, 0, 0]
    return (seen.square().mean(-1) * panels).sum() / panels.sum()
