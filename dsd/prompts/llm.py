"""Prompts written by a language model, in the way of the paper: inspired by captions, filtered, kept diverse.

Cai et al., *Diffusion Self-Distillation for Zero-Shot Customized Image Generation*, 2024, section 3.1 and
supplement A, https://arxiv.org/abs/2411.18616. Its own prompts are not public; ours say what its text says.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dsd import llm
from dsd.grids import Layout
from dsd.llm.outages import is_outage
from dsd.prompts.answers import draft_of
from dsd.prompts.base import PromptWriter, prompt_seed
from dsd.prompts.captions import read_captions
from dsd.prompts.composer import MIN_WORDS, Composer
from dsd.prompts.distinct import Distinct
from dsd.prompts.inspiration import Inspiration, look
from dsd.prompts.length import TokenCount
from dsd.prompts.quotas import Quotas
from dsd.texts import Text, fingerprint, read_texts
from dsd.types import GridPrompt

CATEGORIES: Mapping[str, float] = MappingProxyType({"character": 0.5, "object": 0.3, "animal": 0.2})
TEXTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "filter_system": (),
        "filter": ("caption", "kinds"),
        "write_system": (),
        "write": ("kind", "count", "layout", "inspiration", "words", "directions"),
        "caption": ("caption",),
        "theme": ("theme",),
        "shorten": ("tokens", "limit", "words"),
        "grid": ("rows", "columns", "count", "kind", "subject", "panels"),
        "panel": ("place", "caption"),
        "views": (),
        "lights": (),
        "themes": (),
    }
)
"""The prompt texts by name, and the places of each. `views`, `lights` and `themes` are lists, one a line."""

_SAMPLE = 24  # prompts that an estimate is made from
_WINDOW = 64  # prompts that are written together; part of what a list of prompts is


@dataclass(frozen=True)
class _Slot:
    """A prompt to write: its place in the list, its kind, how many of that kind stand before it, the try."""

    index: int
    kind: str
    number: int
    attempt: int = 0


@dataclass(frozen=True)
class _Dropped:
    reason: str
    detail: str


class LLMWriter(PromptWriter):
    """Lets a language model write grid prompts.

    Each prompt takes one caption as its inspiration. Captions are looked at by the model first, and those
    without a clear subject are dropped. Every panel gets a view and a light of its own, drawn by chance;
    pose, expression and scene are the model's. A prompt that is too long is shortened once; one that is still
    too long, or whose subject is nearly one that there is already, is written again from the next caption.

    What holds of the list of prompts: which kind prompt `i` has depends on `categories` and `i` alone. Which
    caption it begins from depends on the captions, the model's judgement of them and `(seed, i)`, and on the
    number of the try; which views and lights it gets, on `(seed, i)` and the try. What the model answers is
    its own affair. With a cache of answers (`cache`, or the file that `keep_answers` is given) the same call
    gives the same prompts again and pays for none, and a list that was stopped anywhere goes on as if it had
    not been; without one the model may answer otherwise. Told by `resume` what is written, a continued list
    has no near-duplicates in either case. Other captions, texts, models or answers make another list.

    Args:
        model: as litellm names it, "provider/model".
        captions: what to be inspired by, or None for a built-in list of themes, which is far less varied: a
            .txt, .csv, .json, .jsonl or .parquet file, a folder of Parquet files, or a data set on the
            Hugging Face Hub.
        column: of `captions`, where that is not plain.
        split: of a data set on the Hub.
        max_captions: how many captions are read.
        categories: the kinds of subjects and their shares.
        layout: of the grids, rows x columns.
        tokenizer: of the teacher's text encoder: a folder or Hub id, or "mini". By default lengths are
            estimated by letters, on the safe side.
        max_text_tokens: how many tokens a prompt may have; as many as the tokenizer says, or T5's 512.
        similarity: share of words in common from which on two subjects are near-duplicates, in (0, 1].
        tries: how often a prompt is written at most.
        temperature: of the writing; None leaves it to the provider. Captions are judged at 0.
        texts: a folder with prompt texts of your own, such as `write.txt`; see `TEXTS`. The rule that
            captions are data and no instructions is always added.
        options: of `dsd.llm.LLM`: api_base, api_key, fallbacks, concurrency, rpm, max_cost_usd, cache, ...

    Attributes:
        llm: the door to the model, with its ledger.
        outcomes: what became of captions and drafts so far, such as "prompts near-duplicate".

    Raises:
        FileNotFoundError: if there are no such captions or texts.
        ValueError: if a number is out of range, or captions or texts are damaged.
        TypeError: if an option is none of `LLM`'s.
        ImportError: if a package of the extra `llm` is not installed.
    """

    def __init__(
        self,
        model: str,
        captions: str | None = None,
        column: str | None = None,
        split: str = "train",
        max_captions: int = 100_000,
        categories: Mapping[str, float] = CATEGORIES,
        layout: str = "2x2",
        tokenizer: str | None = None,
        max_text_tokens: int | None = None,
        similarity: float = 0.7,
        tries: int = 8,
        temperature: float | None = 1.0,
        texts: str | None = None,
        **options: Any,
    ) -> None:
        if tries < 1:
            raise ValueError(f"`tries` must be at least 1; got {tries}.")
        self._layout, self._quotas = Layout.parse(layout), Quotas(categories)
        self._similarity, self._tries, self._temperature = similarity, tries, temperature
        Distinct(similarity)  # raises for a bad threshold before anything is paid for
        self._texts = read_texts(Path(__file__).parent / "texts", TEXTS, texts)
        self.fingerprint = fingerprint(*self._texts.values())
        self._choices = {name: _choices(self._texts[name]) for name in ("views", "lights", "themes")}
        self._tokens = TokenCount(tokenizer, max_text_tokens)
        self._composer = Composer(self._texts, self._layout, self._tokens)
        self._words = self._composer.words_of_panel(self._quotas.kinds)
        self._captions = None
        if captions is not None:
            self._captions = read_captions(captions, column, split=split, limit=max_captions)
        self.llm: llm.LLM = self._ask_by(model, **options)
        self.outcomes: Counter[str] = Counter()
        self._written: list[str] = []

    def estimate(self, count: int) -> llm.Usage:
        """What so many prompts would take, by rules of thumb; nothing is asked.

        Each is counted as one look at a caption and one draft: captions without a subject, and drafts that
        are written again, come on top.
        """
        total, sampled = llm.Usage(), min(count, _SAMPLE)
        for index, (kind, number) in enumerate(islice(self._quotas, sampled)):
            inspired = max(self._choices["themes"], key=len)
            if self._captions is not None:
                caption = self._captions[index % len(self._captions)]
                inspired = self._texts["caption"].fill(caption=llm.as_data("caption", caption))
                total += self.llm.estimate(look(caption, self._quotas.kinds, self._texts))
            total += self.llm.estimate(self._request(_Slot(index, kind, number), inspired, 0))
        return total.scaled(count / max(1, sampled))

    def resume(self, written: Iterable[GridPrompt]) -> None:
        """Tell the next `write` which prompts there are: their subjects are not written again, and nothing is
        asked for them.
        """
        self._written = [prompt.subject for prompt in written]

    def write(self, count: int, seed: int, *, start: int = 0) -> Iterator[GridPrompt]:
        """Prompts `start` to `count - 1`. Without `resume`, those before `start` are written too (from the
        cache, if there is one), because no subject may come twice.

        Raises:
            RuntimeError: if no try at a prompt succeeds; those before it are written.
            AnswerError: if the model cannot be reached.
            Stopped: if the money or the time is spent; call again to go on.
        """
        written, self._written = self._written[:start], []
        return self._write(count, seed, start, written)

    def _write(self, count: int, seed: int, start: int, written: list[str]) -> Iterator[GridPrompt]:
        distinct = Distinct(self._similarity, written)
        inspiration = None
        if self._captions is not None:
            inspiration = Inspiration(
                self._captions, self._quotas.kinds, self.llm, self._texts, seed=seed, outcomes=self.outcomes
            )
        first = len(written)
        every = (_Slot(i, kind, number) for i, (kind, number) in enumerate(self._quotas))
        slots = islice(every, first, count)
        while first < count:
            # Windows end at the same places wherever the list was begun: within one, later prompts may be
            # settled before earlier ones that are tried again.
            window = list(islice(slots, _WINDOW - first % _WINDOW))
            for prompt in self._window(window, seed, distinct, inspiration):
                if first >= start:
                    yield prompt
                first += 1

    def _window(
        self, slots: list[_Slot], seed: int, distinct: Distinct, inspiration: Inspiration | None
    ) -> Iterator[GridPrompt]:
        """Some prompts in order, each as soon as those before it are settled."""
        done: dict[int, GridPrompt] = {}
        next_index, dropped = slots[0].index, _Dropped("", "")
        while slots:
            if slots[0].attempt == self._tries:
                raise RuntimeError(
                    f"Prompt {slots[0].index} ({slots[0].kind}): none of {self._tries} tries is usable, at "
                    f"last: {dropped.reason}. {dropped.detail} Give more or other captions, or change "
                    "`similarity`, `max_text_tokens` or the model; what is written stays."
                )
            inspired = [(slot, self._inspired(slot, seed, inspiration)) for slot in slots]
            again = []
            for slot, made in zip(
                slots, self.llm.map(lambda item: self._ask(*item, seed), inspired), strict=True
            ):
                outcome = self._settled(made, distinct)
                if isinstance(outcome, GridPrompt):
                    done[slot.index] = outcome
                else:
                    self.outcomes[f"prompts {outcome.reason}"] += 1
                    again.append(replace(slot, attempt=slot.attempt + 1))
                    dropped = outcome
                while next_index in done:
                    yield done.pop(next_index)
                    next_index += 1
            slots = again

    def _settled(
        self, made: GridPrompt | _Dropped | llm.AnswerError, distinct: Distinct
    ) -> GridPrompt | _Dropped:
        """The prompt, if its subject is a new one."""
        if isinstance(made, llm.AnswerError):
            if is_outage(made):
                raise made
            return _Dropped(made.status, str(made))
        if isinstance(made, _Dropped):
            return made
        if (like := distinct.add(made.subject)) is not None:
            return _Dropped("near-duplicate", f"{made.subject!r} is like {like!r}.")
        self.outcomes["prompts kept"] += 1
        return made

    def _inspired(self, slot: _Slot, seed: int, inspiration: Inspiration | None) -> str:
        """What a try begins from: a caption of the slot's kind, or a theme."""
        if inspiration is None:
            theme = _rng(seed, slot).choice(self._choices["themes"])
            return self._texts["theme"].fill(theme=theme)
        caption = inspiration.find(slot.kind, slot.number + slot.attempt)
        return self._texts["caption"].fill(caption=llm.as_data("caption", caption))

    def _request(self, slot: _Slot, inspired: str, seed: int) -> llm.Request:
        asked = self._texts["write"].fill(
            kind=slot.kind,
            count=self._layout.num_panels,
            layout=f"{self._layout.rows} rows, {self._layout.columns} columns",
            inspiration=inspired,
            words=self._words,
            directions=self._directions(_rng(seed, slot)),
        )
        return llm.Request(
            messages=[llm.system(self._texts["write_system"].content, llm.DATA_RULE), llm.user(asked)],
            schema=draft_of(self._layout.num_panels),
            max_tokens=512 + 256 * self._layout.num_panels,
            temperature=self._temperature,
            # two prompts with one caption are asked for apart
            replicate=(prompt_seed(seed, slot.index) + slot.attempt) % 2**31,
        )

    async def _ask(self, slot: _Slot, inspired: str, seed: int) -> GridPrompt | _Dropped:
        request, own_seed = self._request(slot, inspired, seed), prompt_seed(seed, slot.index)
        answer = await self.llm.ask(request)
        prompt, tokens = self._composer.compose(answer.value, slot.kind, own_seed)
        if tokens > self._tokens.limit:
            words = max(MIN_WORDS // 2, int(0.7 * self._words * self._tokens.limit / tokens))
            shorter = self._texts["shorten"].fill(tokens=tokens, limit=self._tokens.limit, words=words)
            turns = [*request.messages, llm.assistant(answer.text), llm.user(shorter)]
            answer = await self.llm.ask(replace(request, messages=turns))
            prompt, tokens = self._composer.compose(answer.value, slot.kind, own_seed)
        if tokens > self._tokens.limit:
            return _Dropped("too long", f"It has {tokens} tokens; the limit is {self._tokens.limit}.")
        return prompt

    def _directions(self, rng: random.Random) -> str:
        """A view and a light for each panel, different ones as far as there are enough."""
        panels = range(self._layout.num_panels)
        views, lights = (_drawn(rng, self._choices[name], len(panels)) for name in ("views", "lights"))
        return "\n".join(f"Panel {i + 1}: {views[i]}; {lights[i]}" for i in panels)


def _choices(text: Text) -> list[str]:
    if not (lines := text.lines()):
        raise ValueError(f"The list {text.source} has no lines to choose from.")
    return lines


def _drawn(rng: random.Random, choices: list[str], count: int) -> list[str]:
    return rng.sample(choices, count) if count <= len(choices) else rng.choices(choices, k=count)


def _rng(seed: int, slot: _Slot) -> random.Random:
    return random.Random(f"{seed}:{slot.index}:{slot.attempt}")
