"""Requests and tokens per minute, kept by waiting."""

import asyncio


class Pace:
    """Spaces calls so that no minute has more requests or tokens than a provider allows.

    Calls pass one after another at even distances (the generic cell rate algorithm without a burst): a
    bucket that starts full would let twice the limit through in the first minute.

    Args:
        rpm: requests a minute; None for no limit.
        tpm: tokens a minute, sent and received together; None for no limit.
    """

    def __init__(self, rpm: float | None = None, tpm: float | None = None) -> None:
        for name, limit in {"rpm": rpm, "tpm": tpm}.items():
            if limit is not None and limit <= 0:
                raise ValueError(f"`{name}` must be above 0, or None for no limit; got {limit}.")
        self._request_s = 60 / rpm if rpm else 0.0
        self._token_s = 60 / tpm if tpm else 0.0
        self._next_request = self._next_token = self._closed_until = 0.0

    async def take(self, tokens: int) -> None:
        """Wait until a call of about so many tokens may go."""
        while (wait := self._ready_at() - _now()) > 0:
            await asyncio.sleep(wait)
        now = _now()
        self._next_request = max(now, self._next_request) + self._request_s
        self._next_token = max(now, self._next_token) + tokens * self._token_s

    def settle(self, tokens: int) -> None:
        """A call took so many tokens more than it was thought to, or fewer if below 0."""
        self._next_token += tokens * self._token_s

    def hold(self, seconds: float) -> None:
        """Let no call go for so long: the provider said so."""
        self._closed_until = max(self._closed_until, _now() + seconds)

    def _ready_at(self) -> float:
        return max(self._next_request, self._next_token, self._closed_until)


def _now() -> float:
    return asyncio.get_running_loop().time()
