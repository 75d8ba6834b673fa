"""Examples with pictures: what the judge is sent of them, over real HTTP, and what a rubric may hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dsd.judges import Example, Rubric
from dsd.judges.rubric_examples import MAX_PICTURE_BYTES, MOST_WITH_PICTURES
from tests.providers import serve
from tests.rated import case, judge, scored, which

pytest.importorskip("litellm")

BLUE, GREY = (0, 0, 200), (90, 90, 90)
PLAIN = Rubric.load("concept_preservation_subject")
FOLLOWING = Rubric.load("prompt_following")


def colour(image):
    """Which picture of all it is that a server got."""
    red, green, blue = image.getpixel((5, 5))
    if blue > 150 and red < 60:
        return "example reference"
    if abs(red - green) < 10 and abs(red - blue) < 10:
        return "example generated"
    return which(image)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (40, 30), BLUE).save(folder / "reference.png")
    Image.new("RGB", (40, 30), GREY).save(folder / "generated.png")
    return folder


def example(folder, **more):
    given = {"reference": folder / "reference.png", "generated": folder / "generated.png", "score": 1}
    return Example(**given | {"why": "The ears differ."} | more)


def words(asked):
    return [text for text in asked.texts if len(text) < 200]


def test_examples_come_before_the_case_with_their_scores(pictures):
    rubric = replace(
        PLAIN, examples=[example(pictures), example(pictures, score=4, why="", case="The same cup.")]
    )
    with serve(lambda asked: scored()) as server:
        assert judge(server, rubric=rubric).rate(case()).value == 3
        (asked,) = server.asked
    assert [colour(image) for image in asked.images] == [
        *["example reference", "example generated"] * 2,
        "reference",
        "generated",
    ]
    assert [x for x in words(asked) if "data" not in x] == [
        "Example 1:",
        "Reference picture:",
        "Generated picture:",
        "Example 1: Score: 1. The ears differ.",
        "Example 2:",
        "Reference picture:",
        "Generated picture:",
        "Example 2: The same cup. Score: 4.",
        "Now the case that you rate:",
        "Reference picture:",
        "Generated picture:",
    ]
    assert asked.roles == ["system", "user"]
    assert "2 examples with pictures" in asked.texts[0]
    assert "The ears differ" not in asked.texts[0]


def test_both_orders_turn_the_examples_too(pictures):
    with serve(lambda asked: scored()) as server:
        judge(server, rubric=replace(PLAIN, examples=[example(pictures)]), order="both").rate(case())
        seen = {tuple(colour(image) for image in asked.images) for asked in server.asked}
    first = ("example reference", "example generated", "reference", "generated")
    assert seen == {first, (*first[1::-1], *first[:1:-1])}


def test_a_rubric_that_shows_prompts_has_examples_with_prompts(pictures):
    shown = example(pictures, reference=None, prompt="a cup on a beach")
    rubric = replace(FOLLOWING, examples=[shown])
    with serve(
        lambda asked: json.dumps(dict.fromkeys(asked.schema["properties"], "x") | {"score": 2})
    ) as server:
        judge(server, rubric=rubric).rate(case())
        (asked,) = server.asked
    assert [colour(image) for image in asked.images] == ["example generated", "generated"]
    texts = "\n".join(asked.texts)
    assert texts.index("a cup on a beach") < texts.index("Now the case") < texts.index("a dog on the moon")


def test_the_examples_pictures_are_part_of_the_fingerprint_and_of_what_is_kept(pictures, tmp_path):
    one = replace(PLAIN, examples=[example(pictures)])
    told = replace(PLAIN, examples=[Example(case="A cup.", score=1)])
    assert len({x.fingerprint for x in (PLAIN, one, told)}) == 3
    assert Rubric.load(one.as_dict()) == one
    assert Rubric.load(one.as_dict()).fingerprint == one.fingerprint
    assert "reference" not in told.as_dict()["examples"][0], "rubrics in words keep their fingerprints"
    with serve(lambda asked: scored()) as server:
        options = {"rubric": one, "cache": str(tmp_path / "answers.sqlite")}
        assert judge(server, **options).rate(case()).value == 3
        assert judge(server, **options).rate(case()).value == 3
        assert len(server.asked) == 1
        Image.new("RGB", (40, 30), (95, 95, 95)).save(pictures / "generated.png")
        other = replace(PLAIN, examples=[example(pictures)])
        assert other.fingerprint != one.fingerprint
        judge(server, **options | {"rubric": other}).rate(case())
        assert len(server.asked) == 2
        judge(server, **options).rate(case())
        assert len(server.asked) == 2, "the first rubric holds the picture as it was"


def test_pictures_are_sent_in_the_rubrics_size_and_counted_in_the_estimate(pictures):
    Image.new("RGB", (2000, 1000), GREY).save(pictures / "generated.png")
    turned = Image.new("RGB", (600, 300), BLUE)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(pictures / "reference.png", exif=exif)
    rubric = replace(PLAIN, examples=[example(pictures)], image_px=256)
    with serve(lambda asked: scored()) as server:
        rater = judge(server, rubric=rubric)
        rater.rate(case())
        (asked,) = server.asked
        plain = judge(server, rubric=replace(PLAIN, image_px=256))
        assert rater.estimate(case()).prompt_tokens > plain.estimate(case()).prompt_tokens + 100
    assert [image.size for image in asked.images[:2]] == [(128, 256), (256, 128)]


def test_a_plan_stays_before_the_examples(pictures):
    rubric = replace(Rubric.load("dreambench++_concept_preservation_subject"), examples=[example(pictures)])
    with serve(lambda asked: "Score: 2") as server:
        assert judge(server, rubric=rubric).rate(case()).value == 2
        (asked,) = server.asked
    assert asked.roles == ["user", "assistant", "user"]
    assert len(asked.images) == 4


def test_a_file_names_pictures_beside_it_and_none_elsewhere(pictures, tmp_path):
    text = "extends: concept_preservation_subject\nname: mine\n"
    text += "examples:\n  - {score: 1, reference: %s, generated: %s}\n"
    path = pictures / "mine.yaml"
    path.write_text(text % ("reference.png", "generated.png"), encoding="utf-8")
    (found,) = Rubric.load(path).examples
    assert found.image("generated").getpixel((5, 5)) == GREY
    (pictures / "next.yaml").write_text("extends: mine.yaml\nname: next\nadvice: More.\n", encoding="utf-8")
    assert Rubric.load(pictures / "next.yaml").examples == (found,)
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    for name, message in (
        ("../secret.png", "leads out of the folder of the rubric"),
        (tmp_path / "secret.png", "leads out of the folder of the rubric"),
    ):
        path.write_text(text % (name, "generated.png"), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            Rubric.load(path)
    path.write_text(text % ("none.png", "generated.png"), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"no picture .*none.png"):
        Rubric.load(path)


def test_pictures_that_cannot_be_used(pictures, monkeypatch):
    deep = Image.fromarray(np.zeros((30, 40), dtype=np.uint16))
    for given, message in (
        ({"generated": deep}, "mode 'I;16', whose range is not known"),
        ({"generated": b"no picture"}, "it is none of"),
        ({"generated": "data:image/png;base64,!!"}, "no data URL in base64"),
        ({"generated": 3}, "is a file or an image; got 3"),
        ({"generated": bytes(MAX_PICTURE_BYTES + 1)}, "more than 8,388,608 bytes"),
        ({"generated": None}, "needs its `generated` picture"),
        ({"generated": None, "reference": None}, "needs a `case` in words, or pictures"),
    ):
        with pytest.raises(ValueError, match=message):
            example(pictures, **given)
    monkeypatch.setattr("dsd.judges.rubric_examples._MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="at most 1,000 pixels"):
        example(pictures)


def test_examples_must_show_what_the_rubric_shows(pictures):
    whole = example(pictures)
    for rubric, given, message in (
        (PLAIN, example(pictures, reference=None), "lacks the reference"),
        (PLAIN, example(pictures, prompt="a cup"), "has a prompt"),
        (FOLLOWING, whole, "has a reference"),
        (FOLLOWING, example(pictures, reference=None), "lacks the prompt"),
        (PLAIN, example(pictures, score=9), "not on the scale"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(rubric, examples=[given])
    assert len(replace(PLAIN, examples=[whole] * MOST_WITH_PICTURES).shown_examples) == 8
    with pytest.raises(ValueError, match="9 examples have pictures; at most 8 may"):
        replace(PLAIN, examples=[whole] * 9)
