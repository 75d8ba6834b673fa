"""Keeps pairs whose pictures look alike to a vision model, but not too much alike."""

from collections import OrderedDict
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from dsd import extractors
from dsd.curators.base import Curator
from dsd.types import Pair, Verdict, image_digest

LOW, HIGH = 0.75, 0.999
"""The limits for the encoder inside dsd."""

_DECIMALS = 6  # a model's output differs by less than this with the number of pictures it is given at once


class EmbeddingCurator(Curator):
    """Compares the embeddings of reference and target: is it one subject, and are they two pictures of it?

    The score is their cosine similarity, and a pair is accepted when it lies between the two limits. What a
    similarity means depends on the extractor: the default limits suit the encoder inside dsd, which is for
    the small world; for another one, look at the scores of some pairs first (`min_score` and `max_score` of a
    policy move the limits without judging again).

    Args:
        extractor: "mini", a spec or a function; see `dsd.extractors`.
        low: least similarity of two pictures of the same subject.
        high: greatest similarity of two pictures that are not copies of each other.
        batch_size: pictures given to the model at once.
        cache_size: how many pictures' embeddings are kept, for the panels of a grid come back in several
            pairs.
        device: where the model is to run; by default a GPU if there is one.

    Raises:
        ValueError: if the limits are not -1 <= low <= high <= 1, or a size is below 1.
        LookupError, FileNotFoundError, OSError: if there is no such extractor or model.
    """

    free = True

    def __init__(
        self,
        extractor: extractors.Spec = "mini",
        low: float = LOW,
        high: float = HIGH,
        batch_size: int = 64,
        cache_size: int = 4096,
        device: str | None = None,
    ) -> None:
        if not -1 <= low <= high <= 1:
            raise ValueError(
                f"The limits must be -1 <= low <= high <= 1; got low={low} and high={high}. "
                "They bound a cosine similarity: 1 is a copy."
            )
        for name, value in {"batch_size": batch_size, "cache_size": cache_size}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        self.low, self.high, self.batch_size, self.cache_size = low, high, batch_size, cache_size
        self._extractor = extractors.load(extractor, device)
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    def judge(self, pair: Pair) -> Verdict:
        """Compare the two pictures' embeddings."""
        return self._verdict(*self._embed([pair.reference, pair.target]))

    def judge_batch(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """The verdicts of `judge`, with the pictures embedded together and each picture once."""
        if len(pairs) < 2:
            return super().judge_batch(pairs)
        embeddings = self._embed_or_none([image for pair in pairs for image in (pair.reference, pair.target)])
        if embeddings is None:  # the one that is at fault shall fail alone
            half = len(pairs) // 2
            return [*self.judge_batch(pairs[:half]), *self.judge_batch(pairs[half:])]
        return list(map(self._verdict, embeddings[::2], embeddings[1::2]))

    def _verdict(self, reference: Tensor, target: Tensor) -> Verdict:
        similarity = round(float(reference @ target), _DECIMALS)
        numbers = f"similarity {similarity:.4f}, wanted {self.low:g} to {self.high:g}"
        if similarity < self.low:
            return Verdict(keep=False, score=similarity, reason=f"not the same subject: {numbers}")
        if similarity > self.high:
            return Verdict(keep=False, score=similarity, reason=f"a near copy: {numbers}")
        return Verdict(keep=True, score=similarity, reason=f"the same subject: {numbers}")

    def _embed_or_none(self, images: Sequence[Image.Image]) -> list[Tensor] | None:
        try:
            return self._embed(images)
        except Exception:
            return None

    def _embed(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """One embedding a picture, in order; each picture that is not remembered is embedded once."""
        distinct = {id(image): image for image in images}
        pictures = {key: extractors.rgb(image) for key, image in distinct.items()}
        digest_of = {key: image_digest(picture) for key, picture in pictures.items()}
        digests = [digest_of[id(image)] for image in images]
        found = {digest: self._cache[digest] for digest in digests if digest in self._cache}
        new = {digest: pictures[key] for key, digest in digest_of.items() if digest not in found}
        for start in range(0, len(new), self.batch_size):
            some = list(new)[start : start + self.batch_size]
            rows = self._extractor([new[digest] for digest in some])
            found.update({digest: row.clone() for digest, row in zip(some, rows, strict=True)})
        for digest in dict.fromkeys(digests):
            self._cache[digest] = found[digest]
            self._cache.move_to_end(digest)
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return [found[digest] for digest in digests]
