"""Extractors that are loaded once, when first needed, and remember what they found.

Two metrics that ask for the same extractor get the same one: a picture goes through its network once,
however many metrics look at it.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
import xxhash
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dsd.extractors import Spec, check, load
from dsd.extractors.base import Extractor, rgb

CAPACITY_BYTES = 64 * 2**20
"""How much of what was found is kept, by default: 32,000 pictures of 512 numbers."""

BATCH_SIZE = 32
_SHARED: "WeakValueDictionary[Hashable, SharedExtractor]" = WeakValueDictionary()


class SharedExtractor(Extractor):
    """An extractor whose network is loaded when it is first used, and which remembers its embeddings by the
    pictures' content.

    It is not copied with a metric, and pickled as its spec, never as its weights.

    Args:
        spec: as `dsd.extractors.load` takes it.
        device: likewise.
        capacity_bytes: how much of what was found is kept; the oldest goes first.
        batch_size: pictures that go through the network at once.
    """

    def __init__(
        self,
        spec: Spec | Extractor,
        device: str | None = None,
        capacity_bytes: int = CAPACITY_BYTES,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.spec, self.device = spec, device
        self.capacity_bytes, self.batch_size = capacity_bytes, batch_size
        self._loaded: Extractor | None = None
        self._found: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"SharedExtractor({self.spec!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return shared, (self.spec, self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedExtractor":
        return self

    @property
    def inner(self) -> Extractor:
        """The extractor itself; loads it.

        Raises:
            LookupError, ImportError, TypeError, OSError: as `dsd.extractors.load`.
        """
        if self._loaded is None:
            self._loaded = load(self.spec, self.device)
        return self._loaded

    @property
    def preprocessing(self) -> str:
        """What is done to a picture first; loads the extractor."""
        return self.inner.preprocessing

    @property
    def max_tokens(self) -> int | None:
        """How many tokens of a prompt the network reads; loads the extractor."""
        return self.inner.max_tokens

    @property
    def kept_bytes(self) -> int:
        """How much is remembered now."""
        return self._bytes

    def __call__(self, images: Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """One row a picture, in order, from memory where it can."""
        if not images:
            raise ValueError("No picture given to embed.")
        upright = [rgb(image) for image in images]
        return self._remembered(upright, [_digest(image) for image in upright], self.inner)

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """One row a text, in order, from memory where it can."""
        if not texts:
            raise ValueError("No text given to embed.")
        keys = [b"t" + xxhash.xxh3_128_digest(text.encode()) for text in texts]
        return self._remembered(list(texts), keys, self.inner.texts)

    def patches(self, images: Sequence[Image.Image]) -> Float[Tensor, "n rows columns d"]:
        """One row a patch of each picture, in order, from memory where it can."""
        if not images:
            raise ValueError("No picture given to embed.")
        upright = [rgb(image) for image in images]
        return self._remembered(upright, [b"p" + _digest(image) for image in upright], self.inner.patches)

    def masks(self, masks: Sequence[Image.Image]) -> Float[Tensor, "n height width"]:
        """Masks resized and cut as the network's pictures are."""
        return self.inner.masks(masks)

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """The tokens of each text."""
        return self.inner.count_tokens(texts)

    def can(self, ability: str) -> bool:
        """Whether it has "patches", "masks" or "texts"; loads the extractor."""
        return self.inner.can(ability)

    def forget(self) -> None:
        """Keep nothing of what was found."""
        self._found.clear()
        self._bytes = 0

    def _remembered(self, items: list[Any], keys: list[bytes], embed: Callable[[Any], Tensor]) -> Tensor:
        found = {key: self._found[key] for key in keys if key in self._found}
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in found}
        for start in range(0, len(new), self.batch_size):
            chosen = list(new)[start : start + self.batch_size]
            for key, row in zip(chosen, embed([new[key] for key in chosen]), strict=True):
                found[key] = row.clone()  # a view would keep the whole batch
        for key in dict.fromkeys(keys):
            self._keep(key, found[key])
        return torch.stack([found[key] for key in keys])

    def _keep(self, key: bytes, row: Tensor) -> None:
        if key in self._found:
            self._found.move_to_end(key)
            return
        self._found[key] = row
        self._bytes += _size(row)
        while self._bytes > self.capacity_bytes:
            self._bytes -= _size(self._found.popitem(last=False)[1])


def shared(extractor: Any = "mini", device: str | None = None) -> SharedExtractor:
    """The one extractor of a spec, while anybody uses it: equal specs, and the same function, give the same.

    Args:
        extractor: as `dsd.extractors.load` takes it. A function that changes its mind must not be given.
        device: likewise.

    Raises:
        TypeError, LookupError: for what can be seen to be wrong before a network is loaded.

    Example:
        >>> shared("mini") is shared({"kind": "mini"})
        True
    """
    if isinstance(extractor, SharedExtractor):
        return extractor
    key: Hashable
    if isinstance(extractor, str | Mapping):
        check(extractor)
        arguments = {"kind": extractor} if isinstance(extractor, str) else dict(extractor)
        key = (json.dumps(arguments, sort_keys=True, default=repr), device)
    elif callable(extractor):
        key = (id(extractor), device)  # it lives as long as what is kept under its number
    else:
        load(extractor, device)  # says what is wrong
    found = _SHARED.get(key)
    if found is None:
        found = _SHARED[key] = SharedExtractor(extractor, device)
    return found


def _digest(image: Image.Image) -> bytes:
    """Of an RGB picture's size and pixels."""
    digest = xxhash.xxh3_128(f"{image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.digest()


def _size(row: Tensor) -> int:
    return row.numel() * row.element_size()
