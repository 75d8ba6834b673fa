"""Which failures are the provider's, so that the work stops, and which are the question's own."""

from dsd.llm.records import CallFailed, ErrorKind

_OUTAGES: frozenset[ErrorKind] = frozenset(
    {"authentication", "not_found", "quota", "rate_limit", "timeout", "connection", "server"}
)


def is_outage(error: Exception) -> bool:
    """Whether other questions would fail too: they are better asked later than recorded as failed."""
    if isinstance(error, CallFailed):
        return error.kind in _OUTAGES
    return isinstance(error, ConnectionError | TimeoutError)
