"""A vision-language model as a judge, in the chain of thought of the paper: name what both pictures show,
describe each in detail, compare, conclude.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from dsd import llm
from dsd.curators import vlm_answers as answers
from dsd.curators.base import Curator
from dsd.curators.heuristic import difference
from dsd.curators.vlm_answers import MODES, Mode, Opinion, Order
from dsd.llm.asking import all_or_stop
from dsd.llm.outages import is_outage
from dsd.llm.records import AnswerError, Stopped, Usage
from dsd.texts import read_texts
from dsd.types import Pair, Verdict

logger = logging.getLogger(__name__)

_TEXTS = Path(__file__).parent / "vlm_texts"
_TEXTS_OF_MODE = {"cot": ("cot",), "turns": ("turns_1", "turns_2", "turns_3"), "direct": ("direct",)}
_ALL_TEXTS = ("system", "copy", *(name for names in _TEXTS_OF_MODE.values() for name in names))
_TEMPERATURE_OF_VOTES = 0.7  # at 0 all votes would be one
_TURN_CHARS = 8000  # of an answer that is said again in the next turn
_TYPICAL_TURN = "x" * 1200  # such an answer, for an estimate
_NOTE_CHARS = 2000


class VLMCurator(Curator):
    """Asks a vision-language model whether both pictures show the same individual.

    The score is how likely that is by the judge's own word, the mean of its votes, and 0 for a copy. A vote
    is for the pair if it says "the same", with a score of at least `threshold`, and not "a copy". What the
    judge wrote is the reason; all its answers are in `raw`, as JSON.

    A pair that the model would not judge is "refused", one whose answers made no sense "unparsable", and one
    that could not be sent "failed". A pair's caption and subject, and text inside its pictures, are data to
    the judge and never instructions.

    Args:
        model: as litellm names it: "gemini/gemini-2.5-flash", "openai/gpt-4o", "hosted_vllm/NAME", ...
        api_base: another address of the provider, or that of a server of one's own.
        api_key: by default from the environment, as litellm reads it.
        mode: "cot" (one answer with the chain of thought), "turns" (the chain in three turns) or "direct"
            (the verdict alone).
        votes: how often each pair is asked about; the majority decides.
        both_orders: ask with the pictures swapped too. Where that changes the verdict, the mean score decides
            by `threshold`, and the reason says so.
        copy_check: have the judge say, too, whether one picture repeats the other; such a pair is rejected.
        min_difference: reject pairs that differ less than this without asking; see the same argument of
            `heuristic`. 0 asks about all.
        image_px: longer side at which pictures are sent; larger ones are made smaller.
        threshold: least score of a vote for the pair, in [0, 1].
        temperature: of the model's sampling; "auto" is 0 for one vote and 0.7 for several, None leaves it to
            the provider.
        max_tokens: of one answer, thinking included.
        texts: a folder with prompt texts of one's own, which take the place of the built-in ones by their
            names: system.txt, copy.txt, and cot.txt, turns_1.txt to turns_3.txt or direct.txt.
        **options: of `dsd.llm.LLM`: concurrency, rpm, tpm, max_cost_usd, timeout_s, price, cache, fallbacks,
            retries, ...

    Raises:
        ValueError: if an argument is out of range, a text cannot be used, or the model is unknown.
        TypeError: if an option is none of `LLM`'s.
        ModuleNotFoundError: if litellm is not installed.
    """

    def __init__(
        self,
        model: str,
        api_base: str | None = None,
        api_key: str | None = None,
        mode: Mode = "cot",
        votes: int = 1,
        both_orders: bool = False,
        copy_check: bool = True,
        min_difference: float = 0.0,
        image_px: int = 512,
        threshold: float = 0.5,
        temperature: float | Literal["auto"] | None = "auto",
        max_tokens: int = 2048,
        texts: str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"Unknown mode {mode!r}. Allowed: {', '.join(MODES)}.")
        for name, value in {"votes": votes, "image_px": image_px, "max_tokens": max_tokens}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        for name, share in {"threshold": threshold, "min_difference": min_difference}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1; got {share}.")
        self.mode, self.votes, self.both_orders, self.copy_check = mode, votes, both_orders, copy_check
        self.min_difference, self.image_px, self.threshold = min_difference, image_px, threshold
        self._temperature = (
            (_TEMPERATURE_OF_VOTES if votes > 1 else 0.0) if temperature == "auto" else temperature
        )
        self._max_tokens = max_tokens
        found = read_texts(_TEXTS, dict.fromkeys(_ALL_TEXTS, ()), texts)
        self._system = f"{found['system'].fill()}\n\n{llm.DATA_RULE}"
        *self._turns, last = (found[name].fill() for name in _TEXTS_OF_MODE[mode])
        self._turns.append(f"{last}\n\n{found['copy'].fill()}" if copy_check else last)
        self._schema = answers.schema(mode, copy_check)
        content = [self._system, *self._turns, self._schema.model_json_schema()]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        self.llm: llm.LLM = self._ask_by(model, api_base=api_base, api_key=api_key, **options)
        # Beside the batch whose last answers are waited for there is work for all connections.
        self.pairs_at_once = 2 * self.llm.concurrency + 64

    def judge(self, pair: Pair) -> Verdict:
        """Ask about one pair."""
        (verdict,) = self.judge_batch([pair])
        return verdict

    def judge_batch(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """The verdicts of `judge`, all pairs at the same time, as far as the limits of the model allow."""
        return all_or_stop(self.judge_some(pairs))

    def judge_some(self, pairs: Sequence[Pair]) -> list[Verdict | Stopped]:
        """See `Curator.judge_some`."""
        return self._all(self._judged, pairs, self.pairs_at_once)

    def estimate(self, pair: Pair) -> Usage | None:
        """What judging the pair would take, by rules of thumb; nothing is asked."""
        if self._without_asking(pair) is not None:
            return Usage()
        total, typical = Usage(), [_TYPICAL_TURN] * len(self._turns)
        for number in range(len(self._turns)):
            total += self.llm.estimate(self._request(pair, "given", 0, typical[:number]))
        return sum((total for _ in self._questions()), Usage())

    def _without_asking(self, pair: Pair) -> Verdict | None:
        """What is plain before anything is paid for: pictures that cannot be read, and copies."""
        try:
            for image in (pair.reference, pair.target):
                image.load()
            differ = difference(pair) if self.min_difference > 0 else 1.0
        except Exception as error:  # whatever a damaged picture makes of its decoder
            return _failed(pair, error, cost_usd=0.0)
        if differ >= self.min_difference:
            return None
        numbers = f"the pictures differ by {differ:.3f}, wanted {self.min_difference:g}"
        reason = f"a copy, found without asking: {numbers}"
        return Verdict(keep=False, score=0.0, reason=reason, cost_usd=0.0)

    async def _judged(self, pair: Pair) -> Verdict | Stopped:
        """Looked at while others' answers are waited for."""
        return self._without_asking(pair) or await self._judge(pair)

    async def _judge(self, pair: Pair) -> Verdict | Stopped:
        asking = (self._opinion(pair, order, replicate) for order, replicate in self._questions())
        # All are waited for, so that nothing is still asked, and paid for, after the verdict.
        opinions: list[Opinion] = []
        for opinion in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(opinion, Stopped):
                return opinion
            if isinstance(opinion, Exception):
                return _failed(pair, opinion)
            if isinstance(opinion, BaseException):
                raise opinion
            opinions.append(opinion)
        return answers.verdict(opinions, self.threshold)

    def _questions(self) -> list[tuple[Order, int]]:
        orders: tuple[Order, ...] = ("given", "swapped") if self.both_orders else ("given",)
        return [(order, replicate) for order in orders for replicate in range(self.votes)]

    async def _opinion(self, pair: Pair, order: Order, replicate: int) -> Opinion:
        """One vote: one answer, or a dialogue of them."""
        so_far = Opinion(order=order)
        for _ in self._turns:
            try:
                answer = await self.llm.ask(self._request(pair, order, replicate, so_far.texts))
            except AnswerError as error:
                texts = (*so_far.texts, error.raw) if error.raw else so_far.texts
                return replace(so_far, error=error, texts=texts, usage=so_far.usage + error.usage)
            texts, usage = (*so_far.texts, answer.text), so_far.usage + answer.usage
            so_far = replace(so_far, texts=texts, usage=usage, model=answer.model)
        return answers.read(answer.value, order=order, texts=texts, usage=usage, model=answer.model)

    def _request(self, pair: Pair, order: Order, replicate: int, said: Sequence[str]) -> llm.Request:
        """The next question of a dialogue in which the model has said this much."""
        messages = [llm.system(self._system), llm.user(*self._shown(pair, order), self._turns[0])]
        for text, question in zip(said, self._turns[1:], strict=False):
            messages += [llm.assistant(text[:_TURN_CHARS]), llm.user(question)]
        concludes = len(said) == len(self._turns) - 1
        return llm.Request(
            messages=messages,
            schema=self._schema if concludes else None,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            replicate=replicate,
        )

    def _shown(self, pair: Pair, order: Order) -> list[str | llm.Picture]:
        """The pictures, and what is noted of the pair, fenced off as data."""
        images = [pair.reference, pair.target]
        captioned = "second"
        if order == "swapped":
            images.reverse()
            captioned = "first"
        notes = {
            "subject": pair.subject,
            "kind": pair.kind,
            f"caption of the {captioned} picture": pair.caption,
        }
        pictures = [llm.Picture(image=image, max_side_px=self.image_px) for image in images]
        fenced = [llm.as_data(name, text, _NOTE_CHARS) for name, text in notes.items() if text.strip()]
        return ["First picture:", pictures[0], "Second picture:", pictures[1], *fenced]


def _failed(pair: Pair, error: Exception, cost_usd: float | None = None) -> Verdict:
    logger.warning("A pair of grid %r could not be judged", pair.grid_id, exc_info=error)
    why = f"{type(error).__name__}: {error}"
    return Verdict(status="failed", reason=why, cost_usd=cost_usd, outage=is_outage(error))
