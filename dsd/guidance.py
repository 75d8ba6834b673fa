"""Guidance by image and by text: which predictions are needed, and how they are put together."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.backbones.base import Reference, Text

Latents = Float[Tensor, "b c h w"]
Predict = Callable[[Latents, Float[Tensor, " b"], Reference, Text, str], Latents]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Guidance:
    r"""The release's three-term guidance by image and by text.

    $v = v(0, 0) + g_i [v(0, img) - v(0, 0)] + g_t [v(txt, img) - v(0, img)]$,

    where "0" stands for the empty caption and for a reference of zeros. At $g_i = g_t = 1$ it is the plain
    prediction. Predictions whose weight is zero are not made. (The release ignores $g_t$ unless $g_i > 1$.)

    Attributes:
        image: g_i; above 1, the reference is followed more closely.
        text: g_t; above 1, the prompt is followed more closely.
        skip_steps: how many of the first steps go without.
        interval: (low, high): steps whose time is outside go without; 0 is data and 1 is noise.
        batched: make all predictions of a step in one call of the denoiser: quicker, more memory. "auto": as
            long as memory suffices, afterwards one by one.

    Raises:
        ValueError: if the interval is not within [0, 1], or empty.

    References:
        Brooks et al., *InstructPix2Pix*, 2022, https://arxiv.org/abs/2211.09800, section 3.2.1; Kynkäänniemi
        et al., *Applying Guidance in a Limited Interval*, 2024, https://arxiv.org/abs/2404.07724.
    """

    image: float = 1.0
    text: float = 1.0
    skip_steps: int = 2
    interval: tuple[float, float] = (0.0, 1.0)
    batched: bool | Literal["auto"] = False

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"The interval of guidance is (low, high) in [0, 1], 1 being noise; got {self.interval}."
            )

    @property
    def active(self) -> bool:
        """Whether there is anything to guide."""
        return (self.image, self.text) != (1.0, 1.0)

    @property
    def needs_empty(self) -> bool:
        """Whether a prediction without the prompt is made at any step."""
        return any(not with_text for with_text, _, _ in self.weights(self.skip_steps, self.interval[1]))

    def weights(self, step: int, t: float) -> list[tuple[bool, bool, float]]:
        """The predictions needed at a step and its time: (with text, with image, weight)."""
        if step < self.skip_steps or not self.interval[0] <= t <= self.interval[1]:
            return [(True, True, 1.0)]
        terms = [
            (False, False, 1 - self.image),
            (False, True, self.image - self.text),
            (True, True, self.text),
        ]
        return [term for term in terms if term[2] != 0]

    def velocity(
        self,
        predict: Predict,
        step: int,
        x_t: Latents,
        t: Float[Tensor, " b"],
        reference: Reference,
        text: Text,
        empty: Text | None,
    ) -> Latents:
        """The guided velocity at a step.

        Args:
            predict: the denoiser's velocity for a batch; told what it is a prediction from, so that caches
                keep several apart.
            step: number of the step, from 0.
            x_t: the noisy canvas.
            t: its time.
            reference: the encoded reference.
            text: the encoded prompt.
            empty: the encoded empty caption, as often as `text`; may be None if it is not needed.
        """
        terms = self.weights(step, float(t[0]))
        if terms == [(True, True, 1.0)]:
            return predict(x_t, t, reference, text, _NAMES[True, True])
        captions = [
            caption for with_text, _, _ in terms if (caption := text if with_text else empty) is not None
        ]
        assert len(captions) == len(terms), "guidance needs the empty caption"
        if self.batched:
            count = len(terms)
            try:
                joined = predict(
                    x_t.repeat(count, 1, 1, 1),
                    t.repeat(count),
                    Reference.joined([reference if shown else reference.zero() for _, shown, _ in terms]),
                    Text.joined(captions),
                    "all",
                )
            except torch.OutOfMemoryError:
                if self.batched != "auto":
                    raise
                logger.warning("Memory is too short for %d predictions at once: now one by one.", count)
                self.batched = False
            else:
                return _weighted(zip(joined.chunk(count), (weight for _, _, weight in terms), strict=True))
        # One by one as they are needed: nothing is held while the denoiser runs but the sum so far.
        return _weighted(
            (
                predict(x_t, t, reference if shown else reference.zero(), caption, _NAMES[with_text, shown]),
                weight,
            )
            for (with_text, shown, weight), caption in zip(terms, captions, strict=True)
        )


_NAMES = {
    (False, False): "nothing",
    (False, True): "image",
    (True, False): "text",
    (True, True): "both",
}


def _weighted(parts: Iterable[tuple[Latents, float]]) -> Latents:
    guided: Latents | None = None
    for part, weight in parts:
        guided = part * weight if guided is None else guided.add_(part, alpha=weight)
    assert guided is not None
    return guided
