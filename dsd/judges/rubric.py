"""A vision-language model as a judge: it rates pictures by a rubric, each on its own."""

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal, get_args

from PIL import Image, ImageOps

from dsd import llm
from dsd.judges import rubric_answers as answers
from dsd.judges.base import Case, Judge, Rating
from dsd.judges.rubric_answers import ORDERS, Order, Scored
from dsd.judges.rubric_examples import READABLE, Example
from dsd.judges.rubrics import Rubric
from dsd.llm.asking import all_or_stop
from dsd.llm.records import AnswerError, Stopped, Usage

logger = logging.getLogger(__name__)

Orders = Literal["reference_first", "generated_first", "both"]

_NOTE_CHARS = 4000


class RubricJudge(Judge):
    """Asks a model to rate pictures by a rubric.

    A rating is read strictly: a whole number on the rubric's scale, from the answer's `score` field or from
    its last word on it ("Score: N"). What cannot be read so is shown to the model once, with what is wrong;
    if it is still wrong the rating is "unparsable". One that the model declines is "refused", one that could
    not be asked "failed". None of these has a value. The judge's words are the reason; all its answers are in
    `raw`, as JSON.

    A case's prompt and subject, and text inside its pictures, are data to the judge and never instructions.

    Args:
        model: as litellm names it: "gemini/gemini-2.5-flash", "openai/gpt-4o", "hosted_vllm/NAME", ...
        rubric: the name of one that ships with dsd (see `dsd.judges.rubrics.names`), a .yaml file, a mapping
            of its parts, or a `Rubric`.
        order: which of two pictures is shown first; "both" asks twice, and the rating is the mean of both.
        runs: how often each picture is rated where nobody says it; as the rubric says by default.
        image_px: longer side at which pictures are sent, or side of the square; as the rubric says by
            default.
        temperature: of the model's sampling; "rubric" is as the rubric says, None leaves it to the provider.
        max_tokens: of one answer, thinking included.
        seed: of the model's sampling, where it takes one: each case and run has its own that comes of it.
            None sends none.
        api_base: another address of the provider, or that of a server of one's own.
        api_key: by default from the environment, as litellm reads it.
        **options: of `dsd.llm.LLM`: concurrency, rpm, tpm, max_cost_usd, timeout_s, price, cache, fallbacks,
            retries, ...

    Attributes:
        rubric: the rubric.
        llm: the door to the model, with its ledger.

    Raises:
        LookupError, FileNotFoundError: if there is no such rubric.
        ValueError: if an argument is out of range, the rubric cannot be used or has no two pictures to order,
            or the model is unknown.
        TypeError: if an option is none of `LLM`'s.
        ModuleNotFoundError: if litellm is not installed.
    """

    def __init__(
        self,
        model: str,
        rubric: str | PathLike[str] | Mapping[str, Any] | Rubric = "concept_preservation_subject",
        order: Orders = "reference_first",
        runs: int | None = None,
        image_px: int | None = None,
        temperature: float | Literal["rubric"] | None = "rubric",
        max_tokens: int = 2048,
        seed: int | None = 0,
        api_base: str | None = None,
        api_key: str | None = None,
        **options: Any,
    ) -> None:
        if order not in get_args(Orders):
            raise ValueError(f"Unknown order {order!r}. Allowed: {', '.join(get_args(Orders))}.")
        if max_tokens < 1:
            raise ValueError(f"`max_tokens` must be at least 1; got {max_tokens}.")
        given = Rubric.load(rubric)
        self.rubric = replace(
            given,
            runs=given.runs if runs is None else runs,
            image_px=given.image_px if image_px is None else image_px,
            temperature=given.temperature if temperature == "rubric" else temperature,
        )
        if order != "reference_first" and self.rubric.num_pictures < 2:
            raise ValueError(
                f"The rubric {self.rubric.name!r} shows one picture: there is no order to change."
            )
        self.rubric_name, self.runs = self.rubric.name, self.rubric.runs
        self.low, self.high = float(self.rubric.low), float(self.rubric.high)
        self._orders: tuple[Order, ...] = ORDERS if order == "both" else (order,)
        self._max_tokens = max_tokens
        self._schema, self._read = answers.schema(self.rubric), answers.reader(self.rubric)
        self._instructions = f"{self.rubric.text()}\n\n{llm.DATA_RULE}"
        self.fingerprint = self.rubric.fingerprint
        self._examples = {order: self._shown_examples(order) for order in ORDERS}
        self.llm: llm.LLM = self._ask_by(model, api_base=api_base, api_key=api_key, seed=seed, **options)
        self._at_once = 2 * self.llm.concurrency + 64
        self._warned = False

    def rate(self, case: Case, run: int = 0) -> Rating:
        """Ask about one picture."""
        (rating,) = all_or_stop(self._all(self._rated, [(case, run)], 1))
        return rating

    def rate_batch(self, cases: Sequence[Case], runs: int | None = None) -> list[Rating]:
        """The ratings of `rate`, all at the same time, as far as the limits of the model allow."""
        return all_or_stop(self.rate_some(cases, runs))

    def rate_some(self, cases: Sequence[Case], runs: int | None = None) -> list[Rating | Stopped]:
        """See `Judge.rate_some`."""
        count = self._num_runs(runs)
        if count > 1 and self.rubric.temperature == 0 and not self._warned:
            self._warned = True
            logger.warning("%d runs at temperature 0 will differ by little or nothing.", count)
        asked = [(case, run) for case in cases for run in range(count)]
        return self._all(self._rated, asked, self._at_once)

    def estimate(self, case: Case) -> Usage:
        """What one rating would take, by rules of thumb; nothing is asked."""
        if self._unfit(case) is not None:
            return Usage()
        return sum((self.llm.estimate(self._request(case, 0, order)) for order in self._orders), Usage())

    async def _rated(self, asked: tuple[Case, int]) -> Rating | Stopped:
        case, run = asked
        if (error := self._unfit(case)) is not None:
            return self._failed(case, run, error, cost_usd=0.0)
        # All are waited for, so that nothing is still asked, and paid for, after the rating.
        asking = (self._scored(case, run, order) for order in self._orders)
        scored: list[Scored] = []
        for one in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(one, Stopped):
                return one
            if isinstance(one, Exception):
                return self._failed(case, run, one)
            if isinstance(one, BaseException):
                raise one
            scored.append(one)
        return answers.rating(scored, key=case.key, rubric=self.rubric, run=run, model=self.llm.model)

    async def _scored(self, case: Case, run: int, order: Order) -> Scored:
        try:
            answer = await self.llm.ask(self._request(case, run, order))
        except AnswerError as error:
            return Scored(order=order, text=error.raw, usage=error.usage, error=error)
        return Scored(
            order=order,
            score=answer.value if self._schema is None else answer.value.score,
            words=answers.words_of(answer.value, answer.text),
            text=answer.text,
            model=answer.model,
            usage=answer.usage,
        )

    def _request(self, case: Case, run: int, order: Order) -> llm.Request:
        shown = [*self._examples[order], *self._shown(case, order)]
        if self.rubric.place == "system":
            messages = [llm.system(self._instructions), llm.user(*shown)]
        elif self.rubric.plan:
            plan = llm.assistant(self.rubric.plan.strip())
            messages = [llm.user(self._instructions), plan, llm.user(*shown)]
        else:
            messages = [llm.user(self._instructions, *shown)]
        return llm.Request(
            messages=messages,
            schema=self._schema,
            read=self._read,
            max_tokens=self._max_tokens,
            temperature=self.rubric.temperature,
            replicate=_replicate(case.key, run),
        )

    def _shown(self, case: Case | Example, order: Order) -> list[str | llm.Picture]:
        """What the rubric looks at, each with its name; words are fenced off as data."""
        pictures = [name for name in self.rubric.shows if name in ("reference", "generated")]
        if len(pictures) == 2:
            pictures = (
                ["reference", "generated"] if order == "reference_first" else ["generated", "reference"]
            )
        texts = {"prompt": case.prompt, "subject": "" if isinstance(case, Example) else case.subject}
        parts: list[str | llm.Picture] = []
        for name in self.rubric.shows:
            if name not in texts:
                name = pictures.pop(0)
                if isinstance(case, Example):
                    image: Image.Image | None = case.image(name)
                else:
                    image = case.generated if name == "generated" else case.reference
                assert image is not None, "the case was found fit"
                parts += [f"{name.capitalize()} picture:", self._picture(image)]
            elif texts[name].strip():
                parts.append(llm.as_data(name, texts[name], _NOTE_CHARS))
        return parts

    def _shown_examples(self, order: Order) -> list[str | llm.Picture]:
        """The examples that have pictures, as the case is shown, each with its score."""
        parts: list[str | llm.Picture] = []
        for number, example in enumerate(self.rubric.shown_examples, 1):
            told = f"{example.case.strip()} Score: {example.score}. {example.why.strip()}".strip()
            parts += [f"Example {number}:", *self._shown(example, order), f"Example {number}: {told}"]
        return [*parts, "Now the case that you rate:"] if parts else []

    def _picture(self, image: Image.Image) -> llm.Picture:
        rubric = self.rubric
        return llm.Picture(
            image=ImageOps.exif_transpose(image) if image.getexif() else image,
            max_side_px=rubric.image_px,
            square=rubric.square,
            quality=rubric.jpeg_quality,
        )

    def _unfit(self, case: Case) -> Exception | None:
        """Why the case cannot be shown, which is plain before anything is paid for."""
        shown = {"generated": case.generated, "reference": case.reference}
        for name, image in shown.items():
            if name not in self.rubric.shows:
                continue
            if image is None:
                return ValueError(f"The rubric {self.rubric.name!r} shows the {name}; this case has none.")
            try:
                image.load()
            except Exception as error:  # whatever a damaged picture makes of its decoder
                return error
            if image.mode not in READABLE:
                return ValueError(
                    f"The {name} has pixels of the mode {image.mode!r}, whose range is not known. Bring them "
                    "to 8 bits, such as mode 'RGB', first."
                )
        if "prompt" in self.rubric.shows and not case.prompt.strip():
            return ValueError(f"The rubric {self.rubric.name!r} shows the prompt; this case has none.")
        return None

    def _failed(self, case: Case, run: int, error: Exception, cost_usd: float | None = None) -> Rating:
        logger.warning("The picture %r could not be rated", case.key, exc_info=error)
        return Rating(
            key=case.key,
            rubric=self.rubric.name,
            judge=self.llm.model,
            run=run,
            status="failed",
            reason=f"{type(error).__name__}: {error}",
            cost_usd=cost_usd,
        )


def _replicate(key: str, run: int) -> int:
    """A number that differs from run to run, and between cases: what the seeds of the calls come from."""
    digest = hashlib.sha256(key.encode()).digest()
    return (int.from_bytes(digest[:4], "big") + run) % 2**30
