"""Guidance by image and by text: which predictions are needed, and how they are put together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dsd.backbones.base import Reference, Text

Latents = Float[Tensor, "b c h w"]
Predict = Callable[[Latents, Float[Tensor, " b"], Reference, Text], Latents]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    r"""The release's three-term guidance by image and by text.

    $v = v(0, 0) + g_i [v(0, img) - v(0, 0)] + g_t [v(txt, img) - v(0, img)]$,

    where "0" stands for the empty caption and for a reference of zeros. At $g_i = g_t = 1$ it is the plain
    prediction. Predictions whose weight is zero are not made. (The release ignores $g_t$ unless $g_i > 1$.)

    Attributes:
        image: g_i; above 1, the reference is followed more closely.
        text: g_t; above 1, the prompt is followed more closely.
        skip_steps: how many of the first steps go without.
        batched: make all predictions of a step in one call of the denoiser: quicker, more memory.

    References:
        Brooks et al., *InstructPix2Pix*, 2022, https://arxiv.org/abs/2211.09800, section 3.2.1.
    """

    image: float = 1.0
    text: float = 1.0
    skip_steps: int = 2
    batched: bool = False

    @property
    def active(self) -> bool:
        """Whether there is anything to guide."""
        return (self.image, self.text) != (1.0, 1.0)

    def weights(self, step: int) -> list[tuple[bool, bool, float]]:
        """The predictions needed at a step: (with text, with image, weight)."""
        if step < self.skip_steps:
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
            predict: the denoiser's velocity for a batch.
            step: number of the step, from 0.
            x_t: the noisy canvas.
            t: its time.
            reference: the encoded reference.
            text: the encoded prompt.
            empty: the encoded empty caption, as often as `text`; may be None if it is not needed.
        """
        terms = self.weights(step)
        if terms == [(True, True, 1.0)]:
            return predict(x_t, t, reference, text)
        captions = [
            caption for with_text, _, _ in terms if (caption := text if with_text else empty) is not None
        ]
        assert len(captions) == len(terms), "guidance needs the empty caption"
        # One by one as they are needed: nothing is held while the denoiser runs but the sum so far.
        images = (reference if with_image else reference.zero() for _, with_image, _ in terms)
        if self.batched:
            count = len(terms)
            joined = predict(
                x_t.repeat(count, 1, 1, 1),
                t.repeat(count),
                Reference.joined(list(images)),
                Text.joined(captions),
            )
            parts: Iterable[Latents] = joined.chunk(count)
        else:
            parts = (predict(x_t, t, image, caption) for image, caption in zip(images, captions, strict=True))
        guided: Latents | None = None
        for part, (_, _, weight) in zip(parts, terms, strict=True):
            guided = part * weight if guided is None else guided.add_(part, alpha=weight)
        assert guided is not None
        return guided
