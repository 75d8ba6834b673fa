"""Who draws: each method against what it must ask for."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

import dsd
from dsd.evaluation import methods
from dsd.evaluation.methods import Drawing, Job, Method
from dsd.evaluation.methods.base import jobs_of, seed_of
from dsd.llm.records import Stopped
from dsd.teachers import Teacher
from dsd.types import Grid
from tests.benchmark_folders import picture
from tests.method_cases import case


@pytest.fixture
def jobs():
    return jobs_of(
        [
            case(f"c{i}", f"the {colour} creature on a beach")
            for i, colour in enumerate(["red", "blue", "red"])
        ]
    )


def test_seeds_are_of_the_picture_and_not_of_the_method():
    jobs = jobs_of([case("a"), case("b")], images_per_prompt=3, seed=4)
    assert [job.key for job in jobs] == ["a", "a_1", "a_2", "b", "b_1", "b_2"]
    assert len({job.seed for job in jobs}) == 6
    assert jobs[4].seed == seed_of("b", 1, 4) != seed_of("b", 1, 5)
    assert all(0 <= job.seed < 2**32 for job in jobs)
    with pytest.raises(ValueError, match="`images_per_prompt` must be at least 1; got 0"):
        jobs_of([case("a")], 0)


class Clumsy(Method):
    """Cannot draw blue, and sleeps while it draws."""

    batch_size = 2

    def __init__(self, error=ValueError):
        self.error, self.batches = error, []

    def draw(self, jobs):
        self.batches.append([job.key for job in jobs])
        time.sleep(0.02 * len(jobs))
        if any("blue" in job.case.prompt for job in jobs):
            raise self.error("no <blue> paint")
        return [picture(job.key) for job in jobs]


def test_what_one_picture_lacks_costs_the_others_nothing(jobs):
    method = Clumsy()
    found = {job.key: drawing for job, drawing in method.draw_all(jobs)}
    assert method.batches == [["c0", "c1"], ["c0"], ["c1"], ["c2"]]
    assert {key: x.status for key, x in found.items()} == {"c0": "drawn", "c1": "failed", "c2": "drawn"}
    assert found["c1"].reason == "ValueError: no <blue> paint"
    assert found["c0"].image.tobytes() == picture("c0").tobytes()
    assert 0.02 <= found["c2"].seconds < 0.1


def test_a_spent_budget_stops_a_method(jobs):
    with pytest.raises(Stopped):
        list(Clumsy(Stopped).draw_all(jobs))


class Short(Clumsy):
    def draw(self, jobs):
        return [picture("x")] * (len(jobs) - 1)


def test_a_method_that_draws_too_few_fails(jobs):
    found = [drawing for _, drawing in Short().draw_all(jobs)]
    assert [x.status for x in found] == ["failed"] * 3
    assert "drew 0 pictures for 1 jobs" in found[0].reason


def test_a_drawing_has_a_picture_if_it_was_drawn():
    for wrong in ({"status": "failed", "image": picture("x")}, {"status": "drawn"}):
        with pytest.raises(ValueError, match="A drawing has a status of drawn, refused, missing, failed"):
            Drawing(**wrong)


def test_a_copy_is_the_reference_and_the_ceiling_the_truth():
    cases = [case("a", count=2), case("b", truth=picture("truth"))]
    copies = [x for _, x in methods.create("copy").draw_all(jobs_of(cases))]
    assert [x.image.tobytes() for x in copies] == [x.reference.tobytes() for x in cases]
    assert copies[0].seconds is None
    truths = [x for _, x in methods.create("ceiling").draw_all(jobs_of(cases))]
    assert [x.status for x in truths] == ["missing", "drawn"]
    assert truths[1].image.tobytes() == picture("truth").tobytes()


class Pipe:
    """Draws the reference tinted by its noise; says what it was asked."""

    class backbone:
        device = torch.device("cpu")

    def __init__(self):
        self.calls = []

    def set_progress_bar_config(self, **given):
        assert given == {"disable": True}

    def __call__(self, image, prompt, generator, **given):
        self.calls.append((prompt, given))
        tints = [int(torch.randint(256, (), generator=g)) for g in generator]
        return type(
            "Out",
            (),
            {"images": [Image.new("RGB", x.size, (t, 0, 0)) for x, t in zip(image, tints, strict=True)]},
        )


def test_a_student_gets_reference_prompt_noise_and_its_arguments(jobs):
    pipe, alone = Pipe(), Pipe()
    more = {"num_inference_steps": 3, "batch_size": 2, "image_guidance": 2.0, "guidance_skip_steps": 0}
    method = methods.create({"name": "student", "model": pipe, **more})
    found = [x.image.tobytes() for _, x in method.draw_all(jobs)]
    assert [prompts for prompts, _ in pipe.calls] == [
        [jobs[0].case.prompt, jobs[1].case.prompt],
        [jobs[2].case.prompt],
    ]
    assert {**pipe.calls[0][1], **more, "batch_size": None} == {**pipe.calls[0][1], "batch_size": None}
    single = methods.create({"name": "student", "model": alone, "num_inference_steps": 3, "batch_size": 1})
    assert [x.image.tobytes() for _, x in single.draw_all(jobs)] == found
    assert len({*found}) == 3


def test_a_student_that_is_not_there_is_said_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder '/nowhere/m'"):
        methods.create({"name": "student", "model": "/nowhere/m"})
    with pytest.raises(ValueError, match="must be at least 1; got 0 and 28"):
        methods.create({"name": "student", "model": "a/b", "batch_size": 0})
    (tmp_path / "m").mkdir()
    (drawing,) = [
        x
        for _, x in methods.create({"name": "untrained", "model": str(tmp_path / "m")}).draw_all(
            jobs_of([case("a")])
        )
    ]
    assert "no dsd.json, which says what it was trained from" in drawing.reason


@pytest.fixture(scope="module")
def student(tiny_flux, tmp_path_factory):
    """A student whose weights were moved away from their start."""
    folder = tmp_path_factory.mktemp("student") / "s"
    made = dsd.Student(
        base={"name": "flux", "base": str(tiny_flux), "max_text_tokens": 20},
        conditioning="parallel",
        frame_size=(64, 64),
    )
    with torch.no_grad():
        for parameter in made.backbone.denoiser.parameters():
            parameter.mul_(1.3)
    made.save_pretrained(folder)
    return folder


def test_a_saved_student_draws_what_its_pipeline_draws_and_differs_from_its_start(student, jobs):
    method = methods.create({"name": "student", "model": str(student), "num_inference_steps": 2})
    found = [np.asarray(x.image, dtype=int) for _, x in method.draw_all(jobs)]
    pipe = dsd.DSDPipeline.from_pretrained(student)
    generator = torch.Generator().manual_seed(jobs[1].seed)
    theirs = pipe(
        image=jobs[1].case.reference, prompt=jobs[1].case.prompt, generator=generator, num_inference_steps=2
    )
    assert np.abs(found[1] - np.asarray(theirs.images[0], dtype=int)).max() <= 1
    start = methods.create({"name": "untrained", "model": str(student), "num_inference_steps": 2})
    before = [np.asarray(x.image, dtype=int) for _, x in start.draw_all(jobs)]
    assert np.abs(before[1] - found[1]).max() > 1
    assert start.pipe.backbone.max_text_tokens == 20
    long = " ".join(["creature"] * 30)
    assert method.cut_prompts([long, "the red creature"]) == [long]
    assert method.model == "s"


class Painter(Teacher):
    batch_size = 2

    def draw(self, prompts, seeds):
        assert all(x.layout == "1x1" and x.panels == (x.text,) for x in prompts)
        return [
            Grid(image=picture((x.text, seed)), prompt=x, seed=seed, teacher="p")
            for x, seed in zip(prompts, seeds, strict=True)
        ]


def test_text_only_sees_the_prompt_alone(jobs):
    method = methods.create({"name": "text_only", "teacher": Painter()})
    found = [x.image.tobytes() for _, x in method.draw_all(jobs)]
    assert found == [picture((job.case.prompt, job.seed)).tobytes() for job in jobs]


class Edits:
    """A pipeline of another package that takes a picture under a name of its own."""

    def __init__(self):
        self.asked = []

    def set_progress_bar_config(self, **_):
        pass

    def __call__(
        self,
        prompt,
        ip_adapter_image=None,
        generator=None,
        height=None,
        width=None,
        output_type="pil",
        num_images_per_prompt=1,
    ):
        self.asked.append((prompt, ip_adapter_image, height, width))
        count = 1 if isinstance(prompt, str) else len(prompt)
        return type("Out", (), {"images": [Image.new("RGBA", (8, 8), "red")] * count * num_images_per_prompt})


def test_a_pipeline_gets_the_reference_under_the_name_that_was_said():
    pipe = Edits()
    spec = {"name": "diffusers", "model": pipe, "image": "ip_adapter_image", "resize_px": 32, "size_px": 8}
    jobs = jobs_of([case("a", count=3)])
    (drawing,) = [x for _, x in methods.create(spec).draw_all(jobs)]
    prompt, given, height, width = pipe.asked[0]
    assert (prompt, given.size, height, width) == (jobs[0].case.prompt, (32, 32), 8, 8)
    assert (drawing.image.mode, drawing.model) == ("RGB", "Edits")
    list(methods.create({**spec, "several": True}).draw_all(jobs))
    assert [x.size for x in pipe.asked[1][1]] == [(32, 32)] * 3
    list(
        methods.create({"name": "diffusers", "model": pipe, "batch_size": 2}).draw_all(
            jobs_of([case("a"), case("b")])
        )
    )
    assert pipe.asked[2][:2] == (["the red creature on a beach"] * 2, None)


def test_a_wrong_argument_name_and_too_many_pictures_are_said():
    with pytest.raises(
        TypeError, match=r"no argument 'image'. Those with 'image' in their names: ip_adapter_image"
    ):
        _ = methods.create({"name": "diffusers", "model": Edits(), "image": "image"}).pipeline
    method = methods.create(
        {"name": "diffusers", "model": Edits(), "arguments": {"num_images_per_prompt": 2}}
    )
    (drawing,) = [x for _, x in method.draw_all(jobs_of([case("a")]))]
    assert drawing.reason == "ValueError: Edits returned 2 pictures for 1 jobs."
    with pytest.raises(ValueError, match="`size_px` must be at least 1; got 0"):
        methods.create({"name": "diffusers", "model": "x", "size_px": 0})


def test_a_folder_of_diffusers_is_drawn_with_as_stock_does(tiny_flux, jobs):
    from diffusers import FluxPipeline

    spec = {
        "name": "diffusers",
        "model": str(tiny_flux),
        "size_px": 32,
        "num_inference_steps": 2,
        "batch_size": 2,
    }
    method = methods.create(spec | {"arguments": {"max_sequence_length": 16}})
    found = [np.asarray(x.image, dtype=int) for _, x in method.draw_all(jobs)]
    stock = FluxPipeline.from_pretrained(tiny_flux)
    stock.set_progress_bar_config(disable=True)
    for ours, job in zip(found, jobs, strict=True):
        theirs = stock(
            prompt=job.case.prompt, height=32, width=32, num_inference_steps=2, max_sequence_length=16,
            generator=torch.Generator().manual_seed(job.seed),
        ).images[0]  # fmt: skip
        assert np.abs(ours - np.asarray(theirs, dtype=int)).max() <= 1
    words = {count: " ".join(["red"] * count) for count in (15, 16)}  # and the closing token
    assert method.cut_prompts(list(words.values())) == [words[16]]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": "/nowhere/m"}, "no folder '/nowhere/m'"),
        ({"model": "mini", "class_name": "FluxPipelin"}, "no pipeline 'FluxPipelin'"),
    ],
)
def test_pipelines_that_are_not_there_are_said(spec, said):
    with pytest.raises((FileNotFoundError, LookupError), match=said):
        _ = methods.create({"name": "diffusers", **spec}).pipeline


def test_job_is_the_cases_key_and_a_number():
    assert Job(case=case("a"), index=2).key == "a_2"
