"""The judge is judged: methods whose scores are known, intervals against theory, counts against a count by
hand."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from dsd.evaluation import bootstrap, consistency, evaluate_methods, held_out, measuring, small_world
from dsd.mini import world
from dsd.mini.measure import SAME, identity, measure
from dsd.mini.render import draw_scene, finish, render_image
from dsd.types import Grid, Pair


def colours(images):
    """An encoder of its own: the picture shrunk to 4 x 4 px, centred so that cosines differ."""
    small = [
        np.asarray(image.convert("RGB").resize((4, 4)), dtype=np.float32).ravel() - 128 for image in images
    ]
    return torch.from_numpy(np.stack(small))


def strangers(cases, seed=0):
    """Another character in each scene asked for."""
    rng = random.Random(seed)
    return [
        [render_image(world.sample_character(rng), world.sample_context(rng, scene)) for scene in case.scenes]
        for case in cases
    ]


def wrong_scenes(cases):
    return [[truth for truth in case.truths[1:] + case.truths[:1]] for case in cases]


@pytest.fixture(scope="module")
def cases():
    return held_out(10)


@pytest.fixture(scope="module")
def result(cases):
    answers = {
        "text_only": strangers(cases),
        "student": [case.truths for case in cases],
        "shuffled": wrong_scenes(cases),
    }
    return evaluate_methods(cases, answers, colours, workers=1)


def test_held_out_cases_are_held_out_and_reproducible(cases, monkeypatch):
    drawn = []
    sample = small_world.sample_character
    monkeypatch.setattr(
        small_world, "sample_character", lambda rng, **k: drawn.append(sample(rng, **k)) or drawn[-1]
    )
    again = held_out(14)
    assert len(drawn) == 14
    assert all(world.is_held_out(character) for character in drawn)
    assert len({character.combination for character in drawn}) > 9
    for case, other in zip(cases, again, strict=False):
        assert case.reference.tobytes() == other.reference.tobytes()
        assert case.captions == other.captions
    assert held_out(1, seed=1)[0].captions != cases[0].captions


def test_every_case_asks_for_other_scenes_in_its_captions(cases):
    for case in cases:
        assert [world.scene_of(text) for text in case.captions] == list(case.scenes)
        assert len({*case.scenes, measure(case.reference).scene}) == 5
        subjects = {text.rsplit(",", 1)[0] for text in case.captions}
        assert len(subjects) == 1


@pytest.mark.parametrize(("count", "scenes"), [(0, 4), (4, 0), (4, len(world.SCENES))])
def test_impossible_cases_are_refused(count, scenes):
    with pytest.raises(ValueError, match="at least 1 case"):
        held_out(count, scenes)


def test_a_copy_has_perfect_identity_and_fails_the_prompt(result):
    copy = result.methods["copy"]
    assert copy.identity == 1
    assert copy.identity_encoder == pytest.approx(1, abs=1e-6)
    assert copy.scene == 0
    assert copy.product == 0


def test_the_ceiling_is_high_and_strangers_are_below_it(result):
    ceiling, text_only = result.methods["ceiling"], result.methods["text_only"]
    assert ceiling.identity > 0.85
    assert ceiling.scene > 0.95
    assert ceiling.product > 0.85
    assert text_only.identity < ceiling.identity - 0.3
    assert text_only.scene > 0.95  # the right scene, the wrong character


def test_the_right_pictures_in_the_wrong_order_fail_the_prompt(result):
    shuffled = result.methods["shuffled"]
    assert shuffled.identity == pytest.approx(result.methods["ceiling"].identity)
    assert shuffled.scene < 0.05
    assert shuffled.product < 0.05


def test_scores_are_those_of_a_loop_over_pictures(cases, result):
    expected = [identity(measure(case.reference), measure(truth)) for case in cases for truth in case.truths]
    scores = result.methods["ceiling"]
    assert scores.identity == pytest.approx(np.mean(expected))
    assert np.ravel(scores.pictures["identity"]).tolist() == pytest.approx(expected)
    reference, truth = colours([cases[2].reference])[0], colours([cases[2].truths[1]])[0]
    cosine = max(0.0, float(torch.cosine_similarity(reference, truth, dim=0)))
    alone = evaluate_methods([cases[2]], {}, colours, workers=1).methods["ceiling"]
    others = [
        max(0.0, float(torch.cosine_similarity(reference, colours([x])[0], dim=0)))
        for x in cases[2].truths
        if x is not cases[2].truths[1]
    ]
    assert alone.identity_encoder == pytest.approx((cosine + sum(others)) / 4, abs=1e-5)


def test_the_product_is_of_each_picture_and_not_of_the_means(cases):
    mixed = [[*case.truths[:2], case.reference, case.reference] for case in cases[:2]]
    student = evaluate_methods(cases[:2], {"student": mixed}, colours, workers=1).methods["student"]
    assert student.scene == 0.5
    right = [identity(measure(case.reference), measure(x)) for case in cases[:2] for x in case.truths[:2]]
    assert student.identity == pytest.approx((np.mean(right) + 1) / 2)
    assert student.product == pytest.approx(np.mean(right) / 2)
    assert student.product < student.identity * student.scene - 0.001


def test_the_gap_is_closed_by_the_truth_and_not_by_strangers(cases, result):
    assert result.gap_closed == pytest.approx(1)
    assert result.gap_interval == pytest.approx((1, 1))
    half = [[*case.truths[:2], *row[2:]] for case, row in zip(cases, strangers(cases), strict=True)]
    found = evaluate_methods(cases, {"student": half, "text_only": strangers(cases)}, colours, workers=1)
    means = [found.methods[name].identity for name in ("student", "text_only", "ceiling")]
    assert found.gap_closed == pytest.approx((means[0] - means[1]) / (means[2] - means[1]))
    low, high = found.gap_interval
    assert low < found.gap_closed < high
    assert 0.2 < low
    assert high < 0.8
    assert evaluate_methods(cases[:2], {}, colours, workers=1).gap_closed is None


def test_all_scores_are_shares_with_intervals_around_them(result):
    for scores in result.methods.values():
        told = scores.to_json()
        assert told["references"] == 10
        for name in small_world.SCORES:
            low, high = told["intervals"][name]
            assert 0 <= low <= told[name] + 1e-6
            assert told[name] - 1e-6 <= high <= 1


def test_intervals_are_clustered_by_character():
    """Sixteen equal pictures of a character say no more than one: the interval is that of the characters
    alone."""
    rng = np.random.default_rng(0)
    per_character = rng.normal(0.5, 0.1, 200)
    values = np.repeat(per_character[:, None], 16, axis=1)
    picks = bootstrap.resamples(200, 4000)
    low, high = bootstrap.interval(lambda mean: mean, values, picks=picks)
    expected = 2 * 1.96 * per_character.std() / math.sqrt(200)
    assert high - low == pytest.approx(expected, rel=0.1)


def test_processes_measure_as_one_process_does(cases):
    images = [image for case in cases for image in (case.reference, *case.truths)]
    assert measuring.measure_all(images + images[:3], workers=2) == [
        measure(image) for image in [*images, *images[:3]]
    ]


def test_equal_pictures_are_measured_once(cases, monkeypatch):
    calls = []
    monkeypatch.setattr(measuring, "measure", lambda image: calls.append(image) or measure(image))
    measuring.measure_all([cases[0].reference] * 5 + [cases[1].reference], workers=1)
    assert len(calls) == 2


def test_missing_answers_and_wrong_sizes_are_refused(cases):
    with pytest.raises(ValueError, match="'student' needs one picture for each of the 8 scenes of 2 cases"):
        evaluate_methods(cases[:2], {"student": [case.truths for case in cases[:1]]}, colours, workers=1)
    large = [[truth.resize((128, 128)) for truth in case.truths] for case in cases[:2]]
    with pytest.raises(ValueError, match="128 x 128"):
        evaluate_methods(cases[:2], {"student": large}, lambda images: torch.rand(len(images), 2), workers=1)


def test_no_cases_and_ragged_cases_are_refused(cases):
    with pytest.raises(ValueError, match="Got 0 cases"):
        evaluate_methods([], {}, colours, workers=1)
    with pytest.raises(ValueError, match=r"Got 2 cases with \[2, 4\] scenes"):
        evaluate_methods([cases[0], held_out(1, 2)[0]], {}, colours, workers=1)


def pair(character, other, seed, grid, caption=""):
    rng = random.Random(seed)
    panels = [
        render_image(who, world.sample_context(rng, scene))
        for who, scene in ((character, "sea"), (other, "snow"))
    ]
    return Pair(reference=panels[0], target=panels[1], caption=caption, grid_id=grid)


def test_consistency_counts_what_a_person_would():
    rng = random.Random(3)
    a, b, c, d = (world.sample_character(rng) for _ in range(4))
    pairs = [
        pair(a, a, 1, "g1", "a blob, in the snow"),
        pair(b, b, 2, "g2", "a blob, at night"),  # the picture shows snow
        pair(a, c, 3, "g3", "a blob, on white snow"),
        pair(d, b, 4, "g4", "something else"),
    ]
    truth = [identity(measure(p.reference), measure(p.target)) >= SAME for p in pairs]
    assert truth == [True, True, False, False]
    found = consistency(iter(pairs), [True, False, True, False], workers=1)
    assert (found.before, found.after, found.recall) == (0.5, 0.5, 0.5)
    assert (found.grids, found.grids_consistent) == (4, 2)
    assert (found.panels, found.panels_in_scene) == (3, 2)
    nothing = consistency(pairs, [False] * 4, workers=1)
    assert nothing.after is None
    assert nothing.recall == 0
    with pytest.raises(ValueError, match="3 verdicts for 4 pairs"):
        consistency(pairs, [True] * 3, workers=1)


class Pipe:
    """A pipeline that draws the truth, if it is asked for the right thing with a generator of its own."""

    class backbone:
        device = torch.device("cpu")

    def __init__(self, cases):
        self.truths = {
            text: truth for case in cases for text, truth in zip(case.captions, case.truths, strict=True)
        }
        self.references = {text: case.reference for case in cases for text in case.captions}
        self.noise, self.sizes = {}, []

    def set_progress_bar_config(self, **_):
        pass

    def __call__(self, image, prompt, generator, height, width, num_inference_steps):
        assert (height, width, num_inference_steps) == (64, 64, 7)
        assert [self.references[text] for text in prompt] == image
        self.sizes.append(len(prompt))
        self.noise |= {
            text: float(torch.rand((), generator=g)) for text, g in zip(prompt, generator, strict=True)
        }
        return type("Output", (), {"images": [self.truths[text] for text in prompt]})


def test_the_student_is_asked_for_every_scene_with_noise_of_its_own(cases):
    pipe, other = Pipe(cases), Pipe(cases)
    answers = small_world.student_answers(cases, pipe, batch_size=24, num_inference_steps=7)
    assert answers == [list(case.truths) for case in cases]
    assert pipe.sizes == [24, 16]
    assert len(set(pipe.noise.values())) == 40
    small_world.student_answers(cases, other, batch_size=5, num_inference_steps=7)
    assert pipe.noise == other.noise


def test_text_only_sees_the_caption_alone(cases):
    class Teacher:
        batch_size = 7

        def draw(self, prompts, seeds):
            assert all(prompt.layout == "1x1" and prompt.panels == (prompt.text,) for prompt in prompts)
            assert len(set(seeds)) == len(prompts) <= 7
            return [
                Grid(image=truths[p.text], prompt=p, seed=s, teacher="t")
                for p, s in zip(prompts, seeds, strict=True)
            ]

    truths = Pipe(cases).truths
    assert small_world.text_only_answers(cases, Teacher()) == [list(case.truths) for case in cases]


def test_an_empty_scene_has_no_identity(cases):
    contexts = [
        [world.sample_context(random.Random(i), scene) for scene in case.scenes]
        for i, case in enumerate(cases[:3])
    ]
    empty = [[Image.fromarray(finish(draw_scene([c]), [c])[0]) for c in row] for row in contexts]
    student = evaluate_methods(cases[:3], {"student": empty}, colours, workers=1).methods["student"]
    assert student.identity == 0
    assert student.scene == 1
    assert student.product == 0
