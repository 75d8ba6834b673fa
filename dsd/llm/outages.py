"""Which failures are the provider's, so that the work stops, and which are the question's own."""

from dsd.llm.records import AnswerError, CallFailed, ErrorKind

_OUTAGES: frozenset[ErrorKind] = frozenset(
    {"authentication", "not_found", "quota", "rate_limit", "timeout", "connection", "server"}
)


def is_outage(error: AnswerError) -> bool:
    """Whether other questions would fail too: they are better asked later than recorded as failed."""
    return isinstance(error, CallFailed) and error.kind in _OUTAGES
