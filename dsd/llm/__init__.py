"""The one door to language and vision models.

    judge = llm.LLM("gemini/gemini-2.5-flash", max_cost_usd=5.0)
    answer = judge.run(judge.ask(llm.Request(messages=[llm.user("Name a fruit.")])))

Every model that litellm knows is a name: "openai/gpt-4o", "anthropic/claude-...", "hosted_vllm/..." with
`api_base`. Importing this module does not import litellm.
"""

from typing import TYPE_CHECKING, Any

from dsd.llm.messages import DATA_RULE, Message, Picture, as_data, assistant, system, user
from dsd.llm.records import (
    Answer,
    AnswerError,
    BudgetSpent,
    CallFailed,
    DeadlinePassed,
    OutOfService,
    Price,
    Refused,
    Request,
    Stopped,
    Unparsable,
    Usage,
)

if TYPE_CHECKING:
    from dsd.llm.door import LLM
    from dsd.llm.ledger import Ledger

__all__ = [
    "DATA_RULE",
    "LLM",
    "Answer",
    "AnswerError",
    "BudgetSpent",
    "CallFailed",
    "DeadlinePassed",
    "Ledger",
    "Message",
    "OutOfService",
    "Picture",
    "Price",
    "Refused",
    "Request",
    "Stopped",
    "Unparsable",
    "Usage",
    "as_data",
    "assistant",
    "system",
    "user",
]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from dsd.llm.door import LLM

        return LLM
    if name == "Ledger":
        from dsd.llm.ledger import Ledger

        return Ledger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
