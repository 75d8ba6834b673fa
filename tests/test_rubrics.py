"""A rubric as an object: made of parts, read from files, checked before anybody is asked."""

import json
import re
from dataclasses import FrozenInstanceError, replace

import pytest

from dsd.judges import Example, Rubric, rubrics
from dsd.judges import rubric_answers as answers

PARTS = {
    "name": "charm",
    "rates": "charm",
    "shows": ["generated"],
    "task": "Say how charming it is.",
    "scale": {1: "not at all", 2: "somewhat", 3: "very"},
}


def test_the_text_is_made_of_its_parts_in_order():
    rubric = Rubric(
        **PARTS,
        criteria={"Wit": "is there any?", "Grace": "of its lines."},
        advice="Be kind.",
        examples=[Example(case="A frog.", score=3, why="It sings.")],
    )
    assert rubric.text() == (
        "Say how charming it is.\n\n"
        "Criteria:\n- Wit: is there any?\n- Grace: of its lines.\n\n"
        "Be kind.\n\n"
        "The score is a whole number from 1 (worst) to 3 (best):\n"
        "- 1: not at all\n- 2: somewhat\n- 3: very\n\n"
        "Examples:\n- A frog. Score: 3. It sings.\n\n"
        "Fill the fields of the answer in their order."
    )
    assert (rubric.low, rubric.high, rubric.num_pictures) == (1, 3, 1)
    assert not rubric.penalises_copying


def test_a_part_is_exchanged_and_the_rest_stays():
    """The variants of DreamBench++'s study of rubrics are each one part of the object."""
    full = Rubric.load("dreambench++_concept_preservation_subject")
    no_range = replace(full, scale=dict.fromkeys(full.scale, ""))
    no_criteria = replace(full, criteria={})
    thinking = replace(full, analysis=True)
    assert "very poor" not in no_range.text()
    assert "from 0 (worst) to 4 (best)." in no_range.text()
    assert "Criteria" not in no_criteria.text()
    assert "very poor" in no_criteria.text()
    assert "short analysis first" in thinking.text()
    found = {rubric.fingerprint for rubric in (full, no_range, no_criteria, thinking, replace(full, plan=""))}
    assert len(found) == 5
    assert replace(full).fingerprint == full.fingerprint


def test_what_dreambench_rates_is_there():
    subject, style, following = (
        Rubric.load(f"dreambench++_{name}")
        for name in ("concept_preservation_subject", "concept_preservation_style", "prompt_following")
    )
    assert list(subject.criteria) == ["Shape", "Colour", "Texture", "Facial features"]
    assert list(style.criteria) == ["Colour and toning", "Brushstroke and texture", "Style representation"]
    assert list(following.criteria) == ["Relevance", "Accuracy", "Completeness", "Context"]
    for rubric in (subject, style, following):
        levels = [text.partition(".")[0] for text in rubric.scale.values()]
        assert levels == ["very poor", "poor", "fair", "good", "excellent"]
        assert (rubric.low, rubric.high, rubric.runs, rubric.temperature) == (0, 4, 3, 1.0)
        assert (rubric.image_px, rubric.square, rubric.jpeg_quality, rubric.form) == (512, True, 75, "text")
        assert rubric.plan
        assert rubric.place == "user"
    assert [rubric.analysis for rubric in (subject, style, following)] == [False, False, True]
    assert "reference" not in following.shows
    assert len({rubric.plan for rubric in (subject, style, following)}) == 3


def test_copy_penalising_rubrics_differ_from_the_plain_ones_and_say_what_they_are():
    pairs = [name for name in rubrics.names() if name.endswith("_no_copies")]
    assert len(pairs) == 5
    for name in pairs:
        plain, strict = Rubric.load(name.removesuffix("_no_copies")), Rubric.load(name)
        assert strict.copying
        assert not plain.copying
        assert strict.criteria == plain.criteria
        assert "reference" in strict.shows
        head = (rubrics._FOLDER / f"{name}.yaml").read_text()
        assert head.startswith("# DSD-style copy-penalising rubric (own wording)")
        assert "not comparable" in re.sub(r"\s*#\s*", " ", head)


def test_files_extend_each_other_and_a_rubric_survives_the_way_through_json(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "extends: concept_preservation_style\nname: mine\nadvice: Be strict.\n"
    )
    (tmp_path / "next.yaml").write_text(
        "extends: mine.yaml\nname: next\nexamples: [{case: A copy., score: 0}]\ncriteria: {Ink: its black}\n"
    )
    built_in, mine = Rubric.load("concept_preservation_style"), Rubric.load(tmp_path / "mine.yaml")
    following = Rubric.load(str(tmp_path / "next.yaml"))
    assert (mine.name, mine.advice, mine.criteria) == ("mine", "Be strict.", built_in.criteria)
    assert (following.advice, following.task) == ("Be strict.", built_in.task)
    assert following.criteria == {"Ink": "its black"}
    assert following.examples == (Example(case="A copy.", score=0),)
    for rubric in (built_in, mine, following):
        assert Rubric.load(rubric.as_dict()) == rubric
        assert Rubric.load(rubric) is rubric
        assert json.loads(json.dumps(rubric.as_dict()))["criteria"] == rubric.criteria
    with pytest.raises(FrozenInstanceError):
        mine.name = "other"
    with pytest.raises(TypeError):
        mine.criteria["Ink"] = "other"


def test_a_rubric_that_was_given_stays_as_it_is():
    scale, shows = dict(PARTS["scale"]), list(PARTS["shows"])
    rubric = Rubric(**PARTS | {"scale": scale, "shows": shows})
    before = rubric.fingerprint
    scale[9] = "more"
    shows.append("prompt")
    assert rubric.fingerprint == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": " "}, "`name` must be a text, and not empty"),
        ({"task": ""}, "`task` must be a text"),
        ({"advice": 3}, "`advice` must be a text"),
        ({"shows": ["prompt"]}, "must hold 'generated'"),
        ({"shows": ["generated", "generated"]}, "once at most"),
        ({"shows": ["generated", "mask"]}, "once at most; got ['generated', 'mask']"),
        ({"copying": "No copies."}, "put 'reference' into `shows`"),
        ({"scale": {0: "bad"}}, "has 2 to 101 numbers; got 1"),
        ({"scale": {0: "bad", 2: "good"}}, "in steps of 1 without a gap; got [0, 2]"),
        ({"scale": {0: "bad", True: "good"}}, "has whole numbers"),
        ({"scale": {0.0: "bad", 1.0: "good"}}, "whole numbers"),
        ({"scale": {0: "bad", 1: 5}}, "`scale` says in words what each one means"),
        ({"criteria": ["shape"]}, "`criteria` says in words"),
        ({"examples": "none"}, "`examples` is a list of examples"),
        ({"temperature": "hot"}, "`temperature` is from 0 to 2"),
        ({"scale": dict.fromkeys(range(200), "x")}, "has 2 to 101"),
        ({"examples": [{"case": "x", "score": 7}]}, "the score 7, which is not on the scale"),
        ({"examples": [{"case": "x"}]}, "An example is {case: ..., score: ..., why: ...}, and with pictures"),
        ({"form": "essay"}, "`form` is one of object, text; got 'essay'"),
        ({"place": "assistant"}, "`place` is one of system, user"),
        ({"plan": "I will."}, "needs place='user'"),
        ({"image_px": 0}, "`image_px` is a whole number from 1 to 8192"),
        ({"jpeg_quality": 100}, "`jpeg_quality` is a whole number from 1 to 95"),
        ({"runs": True}, "`runs` is a whole number"),
        ({"temperature": -1}, "`temperature` is from 0 to 2"),
        ({"square": "yes"}, "`square` is true or false; got 'yes'"),
        ({"analysis": 1}, "`analysis` is true or false"),
        ({"advise": "x"}, "unknown part 'advise'. Did you mean 'advice'?"),
        ({"extends": "prompt_folowing"}, "Did you mean 'prompt_following'?"),
    ],
)
def test_parts_that_cannot_be_used_are_named(change, words):
    with pytest.raises((ValueError, LookupError), match=re.escape(words)):
        Rubric.load(PARTS | change)


@pytest.mark.parametrize("missing", ["name", "rates", "shows", "task", "scale"])
def test_what_is_missing_is_named(missing):
    with pytest.raises(ValueError, match=f"lacks the part '{missing}'"):
        Rubric.load({name: part for name, part in PARTS.items() if name != missing})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: [", "is no YAML"),
        (b"\xff\xfe", "is no YAML"),
        (b"- a\n- b", "must be a mapping of parts; got list"),
        (b"!!python/object/apply:os.system [echo]", "is no YAML"),
        (b"x: " + b"a" * 70_000, "at most 65536 are read"),
        (b"extends: bad.yaml", "extends others more than 8 deep, or itself"),
        (b"task: 3", "lacks the part 'name'"),
    ],
)
def test_a_damaged_file_is_a_clear_error(tmp_path, content, words):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        Rubric.load(tmp_path / "bad.yaml")


def test_the_form_of_the_answer_follows_the_rubric():
    rubric = Rubric(
        **PARTS | {"shows": ["reference", "generated"]},
        criteria={
            "Colour & tone": "c",
            "colour tone": "d",
            "Score": "e",
            "2D look": "f",
            "copying": "g",
            "copy": "h",
        },
        copying="No copies.",
    )
    names = list(answers.schema(rubric).model_json_schema()["properties"])
    assert names == [
        "colour_tone", "colour_tone_", "criterion_score", "criterion_2d_look", "criterion_copying", "copy_",
        "copying", "score",
    ]  # fmt: skip
    score = answers.schema(rubric).model_json_schema()["properties"]["score"]
    assert (score["minimum"], score["maximum"], score["type"]) == (1, 3, "integer")
    alone = replace(rubric, analysis=False, copying="")
    assert list(answers.schema(alone).model_json_schema()["properties"]) == ["score"]
    assert "Give the score alone." in alone.text()
    bare = replace(rubric, criteria={}, copying="")
    assert list(answers.schema(bare).model_json_schema()["properties"]) == ["analysis", "score"]
    assert answers.schema(replace(rubric, form="text")) is None
    read = answers.reader(replace(rubric, form="text"))
    assert read("Score: 3") == 3
    with pytest.raises(ValueError, match="one whole number from 1 to 3 as 'Score: N'"):
        read("Score: 0")
