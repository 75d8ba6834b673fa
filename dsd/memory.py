"""Memory of a computation, counted tensor by tensor, the same on every device and machine."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OTHER = "activations"
"""The part of all that no other part was given: what operations make, until it is moved or dies."""


class PeakMemory(TorchDispatchMode):
    """Inside, the bytes of all live tensors are followed, part by part.

    What a kernel allocates for itself is not seen, nor what the allocator keeps in reserve. A tensor is alive
    as long as anybody holds its storage: Python, or autograd for a backward pass.

    Args:
        there: tensors that are there before, such as weights: one part, or several by name.
        parts: names of parts that are empty at first.

    Attributes:
        peak: the most bytes that were alive at once.
        phase: a name for what is being done now; set it from outside.
        moments: after each operation that changed something, the phase and the bytes of each part, in the
            order of `parts`.
    """

    def __init__(
        self, there: Iterable[Tensor] | Mapping[str, Iterable[Tensor]] = (), parts: Sequence[str] = ()
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        given = there if isinstance(there, Mapping) else {"there": there}
        self.parts = tuple(dict.fromkeys((*given, *parts, OTHER)))
        self.phase = ""
        self.moments: list[tuple[str, tuple[int, ...]]] = []
        self.peak = 0
        self._alive: dict[int, tuple[int, int, weakref.ref[Any]]] = {}  # part, bytes and storage by its id
        self._now = [0] * len(self.parts)
        for part, tensors in given.items():
            for tensor in tensors:
                self._follow(tensor, part)
        self._changed = False
        self._note()

    @property
    def now(self) -> dict[str, int]:
        """Bytes that are alive, by part."""
        return dict(zip(self.parts, self._now, strict=True))

    def move(self, tensors: Iterable[Tensor], part: str) -> None:
        """Count tensors, followed or new, to a part from now on."""
        for tensor in tensors:
            self._forget(id(tensor.untyped_storage()))
            self._follow(tensor, part)
        self._note()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation and follow what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf, OTHER)
        if self._changed:
            self._note()
        return result

    def _follow(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._alive:
            return
        number, size = self.parts.index(part), storage.nbytes()
        self._alive[key] = number, size, weakref.ref(storage, lambda _: self._forget(key))
        self._now[number] += size
        self._changed = True
        self.peak = max(self.peak, sum(self._now))

    def _forget(self, key: int) -> None:
        if key in self._alive:
            number, size, _ = self._alive.pop(key)
            self._now[number] -= size
            self._changed = True

    def _note(self) -> None:
        self.moments.append((self.phase, tuple(self._now)))
        self._changed = False
