"""Answers in plain text that must say something: read, mended, kept; and pictures in other forms."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsd import llm
from dsd.llm import batches
from tests.asking import COST, ask, door, drawing, question
from tests.providers import Asked, Fault, serve

pytest.importorskip("litellm")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsd.llm.door._FIRST_WAIT_S", 0.01)


def even(text: str) -> int:
    """A number, but only an even one."""
    if not text.isdigit() or int(text) % 2:
        raise ValueError("it is no even number")
    return int(text)


def number(text: str = "Which?", **options: object) -> llm.Request:
    return question(text, schema=None, read=even, **options)


def test_what_is_read_is_the_value() -> None:
    with serve(lambda asked: "12") as server:
        answer = ask(door(server), number())
    assert (answer.value, answer.text) == (12, "12")


def test_what_cannot_be_read_is_shown_once_and_then_unparsable() -> None:
    with serve(lambda asked: "7") as server:
        with pytest.raises(llm.Unparsable, match=r"gave no valid answer: it is no even number\.") as caught:
            ask(door(server), number())
        assert len(server.asked) == 2
        said = server.asked[1].texts
    assert said[-2] == "7"
    assert said[-1] == "Your answer is not valid: it is no even number. Answer again in the form asked for."
    assert caught.value.raw == "7"
    assert caught.value.usage.cost_usd == pytest.approx(2 * COST)


def test_a_refusal_in_words_is_one_and_is_not_asked_again() -> None:
    with serve(lambda asked: "I'm sorry, but no.") as server:
        with pytest.raises(llm.Refused):
            ask(door(server), number())
        assert len(server.asked) == 1


def test_a_text_that_was_cut_is_not_read_whatever_it_says() -> None:
    with serve(lambda asked: Fault(text="12", cut=True)) as server:
        with pytest.raises(llm.Unparsable, match="cut off: it is longer than 1024 tokens"):
            ask(door(server), number())
        assert ask(door(server), question(schema=None)).text == "12"  # nobody reads it


def test_the_cache_holds_what_can_be_read_alone(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    with serve(lambda asked: "12" if asked.number > 1 else "7") as server:
        with pytest.raises(llm.Unparsable):
            ask(door(server, cache=file), number())
        assert [ask(door(server, cache=file), number()).cached for _ in range(2)] == [False, True]
        assert len(server.asked) == 3

        def odd(text: str) -> int:
            raise ValueError("it is not odd")

        with pytest.raises(llm.Unparsable):  # another reader looks at the kept answer again
            ask(door(server, cache=file), question("Which?", schema=None, read=odd))


def test_batch_mode_keeps_what_can_be_read_alone(tmp_path: Path) -> None:
    answers = {"a": "12", "b": "7", "c": Fault(text="14", cut=True)}

    def answer(asked: Asked) -> str | Fault:
        return answers[asked.texts[-1]]

    with serve(answer) as server:
        model = door(server, cache=tmp_path / "answers.sqlite")
        requests = [number(text) for text in answers]
        model.run(asyncio.wait_for(batches.answer(model, requests, poll_s=0.01), 30))
        assert model.cache is not None
        kept = [model.cache.get(request, model.model) is not None for request in requests]
        model.close()
    assert kept == [True, False, False]


def jpeg(picture: llm.Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.encoded()))


def test_a_square_is_a_square_whatever_the_shape() -> None:
    for size in ((300, 200), (20, 90)):
        picture = llm.Picture(image=drawing().resize(size), max_side_px=128, square=True)
        assert jpeg(picture).size == picture.sent_size() == (128, 128)
    wide = np.asarray(jpeg(llm.Picture(image=drawing(), max_side_px=96, square=True)), dtype=float)
    stretched = np.asarray(drawing().resize((96, 96), Image.Resampling.LANCZOS), dtype=float)
    assert np.abs(wide - stretched).mean() < 2


def test_the_quality_is_that_of_pillow(tmp_path: Path) -> None:
    drawing().save(tmp_path / "pillow.jpg")
    assert llm.Picture(image=drawing(), quality=75).encoded() == (tmp_path / "pillow.jpg").read_bytes()
    assert len(llm.Picture(image=drawing()).encoded()) > len(
        llm.Picture(image=drawing(), quality=75).encoded()
    )


def test_what_is_transparent_is_white_and_part_of_the_question() -> None:
    clear, solid = Image.new("P", (16, 16), 3), Image.new("P", (16, 16), 3)
    for image in (clear, solid):
        image.putpalette([10, 60, 20] * 256)
    clear.info["transparency"] = 3
    pictures = [llm.Picture(image=image) for image in (clear, solid, Image.new("LA", (16, 16), (0, 0)))]
    shown = [np.asarray(jpeg(picture)) for picture in pictures]
    assert shown[0].min() > 250
    assert shown[1].max() < 80
    assert shown[2].min() > 250
    assert pictures[0].digest() != pictures[1].digest()


def test_a_picture_sent_in_another_form_is_another_question() -> None:
    forms = [{}, {"max_side_px": 100}, {"square": True}, {"quality": 75}, {"square": True, "quality": 75}]
    keys = {number(messages=[llm.user(llm.Picture(image=drawing(), **form))]).key("m") for form in forms}
    assert len(keys) == len(forms)
