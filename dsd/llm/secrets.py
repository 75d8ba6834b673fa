"""Keeps keys out of everything that is kept or shown."""

import os
import re

_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
_LOOK = re.compile(
    r"(?i)(bearer\s+|[?&]key=|x-api-key['\":\s]+|authorization['\":\s]+)[^\s'\"&,}]+|\bsk-[\w*-]{8,}|\bAIza[\w-]{20,}"
)
_HIDDEN = "[hidden]"
_MIN_CHARS = 8


class Redactor:
    """Replaces keys in a text: the given ones, those of the environment, and what looks like one.

    Args:
        keys: given by the user. One below 8 characters, such as the "none" that a local server is given, is
            no secret, and stands in ordinary texts too.
    """

    def __init__(self, keys: list[str]) -> None:
        self._keys = [key for key in keys if len(key) >= _MIN_CHARS]

    def __call__(self, text: str) -> str:
        """The text without them."""
        environment = [v for k, v in os.environ.items() if _NAME.search(k) and len(v) >= _MIN_CHARS]
        for secret in sorted({*self._keys, *environment}, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return _LOOK.sub(_HIDDEN, text)
