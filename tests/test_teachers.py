"""Teachers: what they draw depends on prompt and seed alone, and is what stock diffusers draws."""

import json

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

import dsd
from dsd import teachers
from dsd.types import GridPrompt
from tests.cheap_world import picture


def prompt(text, layout="2x2"):
    return GridPrompt(text=text, subject="", panels=(), layout=layout)


PROMPTS = [prompt("a red round creature"), prompt("the blue creature"), prompt("snow in the forest", "1x2")]
FLUX = {"name": "diffusers", "panel_size": 16, "num_inference_steps": 2, "guidance_scale": 3.5}


def test_draws_what_stock_diffusers_draws(tiny_flux):
    (grid,) = teachers.create({**FLUX, "model": str(tiny_flux)}).draw(PROMPTS[:1], [7])
    pipe = FluxPipeline.from_pretrained(tiny_flux)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        PROMPTS[0].text, height=32, width=32, num_inference_steps=2, guidance_scale=3.5,
        max_sequence_length=24,
        generator=torch.Generator().manual_seed(7),
    ).images[0]  # fmt: skip
    assert grid.image.size == (32, 32)
    assert np.array_equal(np.asarray(grid.image), np.asarray(expected))
    assert grid.image.getextrema() != ((0, 0), (0, 0), (0, 0))
    assert (grid.seed, grid.teacher, grid.prompt) == (7, f"diffusers/{tiny_flux}", PROMPTS[0])


def test_a_grid_does_not_depend_on_its_neighbours(tiny_flux):
    teacher = teachers.create({**FLUX, "model": str(tiny_flux), "batch_size": 2})
    together = teacher.draw(PROMPTS, [1, 2, 3])
    backwards = teacher.draw(PROMPTS[::-1], [3, 2, 1])[::-1]
    for one, other, text, seed in zip(together, backwards, PROMPTS, [1, 2, 3], strict=True):
        alone = teacher.draw([text], [seed])[0]
        assert one.prompt is text
        # The same up to rounding: another batch size may sum in another order.
        for grid in (other, alone):
            assert np.abs(np.asarray(one.image, int) - np.asarray(grid.image, int)).max() <= 1
    assert not np.array_equal(
        np.asarray(together[0].image), np.asarray(teacher.draw(PROMPTS[:1], [9])[0].image)
    )


def test_the_size_follows_the_layout(tiny_flux):
    sizes = [
        g.image.size for g in teachers.create({**FLUX, "model": str(tiny_flux)}).draw(PROMPTS, [1, 2, 3])
    ]
    assert sizes == [(32, 32), (32, 32), (32, 16)]


def test_a_pipeline_can_be_given_and_is_left_as_it_was(tiny_flux):
    pipe = FluxPipeline.from_pretrained(tiny_flux)
    pipe.set_progress_bar_config(desc="mine")
    teacher = teachers.create({**FLUX, "model": pipe, "arguments": {"num_inference_steps": 1}})
    (grid,) = teacher.draw(PROMPTS[:1], [7])
    assert pipe._progress_bar_config == {"desc": "mine"}
    assert grid.teacher == "diffusers/FluxPipeline"
    assert teachers.spec(teacher)["model"].endswith("FluxPipeline>")
    json.dumps(teachers.spec(teacher))
    two = teachers.create({**FLUX, "model": pipe}).draw(PROMPTS[:1], [7])[0]
    assert two.image.tobytes() != grid.image.tobytes()  # the extra argument had an effect


def test_any_text_to_image_pipeline_will_do():
    """Nothing but the common call of diffusers is assumed: no second tokenizer, no `max_sequence_length`."""

    class Small:
        _progress_bar_config = None

        def set_progress_bar_config(self, **options):
            pass

        def __call__(self, prompt, generator, output_type="pil", height=8, width=8):
            images = [
                Image.fromarray((torch.rand(height, width, 3, generator=g) * 255).byte().numpy())
                for g in generator
            ]
            return type("Output", (), {"images": images[: 1 if prompt[0] == "short" else None]})

    teacher = teachers.create({"name": "diffusers", "model": Small(), "panel_size": 4, "batch_size": 2})
    assert [grid.image.size for grid in teacher.draw(PROMPTS, [1, 2, 3])] == [(8, 8), (8, 8), (8, 4)]
    with pytest.raises(ValueError, match="returned 1 pictures for 2 prompts"):
        teacher.draw([prompt("short"), prompt("b")], [1, 2])


def test_flux_draws_a_run(tiny_flux, tmp_path):
    run = dsd.Run(tmp_path / "run")
    dsd.write_prompts(run, count=3, progress=False)
    dsd.draw_grids(run, teacher={**FLUX, "model": str(tiny_flux), "batch_size": 2}, progress=False)
    assert dsd.make_pairs(run, progress=False).rows == 36
    assert {pair.reference.size for pair in run.pairs} == {(16, 16)}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"panel_size": 0}, ValueError, "`panel_size` must be at least 1; got 0"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"offload": "disk"}, ValueError, "`offload` must be 'model', 'sequential' or None; got 'disk'"),
        ({"steps": 4}, TypeError, "has no argument 'steps'"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        teachers.create({"name": "diffusers", **arguments})


def test_wrong_model(tmp_path, tiny_flux):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        teachers.create({"name": "diffusers", "model": str(tmp_path / "nowhere")}).draw(PROMPTS[:1], [0])
    with pytest.raises(ValueError, match="Unknown dtype 'fp8'"):
        teachers.create({"name": "diffusers", "model": str(tiny_flux), "dtype": "fp8"}).draw(PROMPTS[:1], [0])


@pytest.fixture
def folder(tmp_path):
    for i, text in enumerate(["a fox", "a hen"]):
        picture(text).convert("RGBA" if i else "RGB").save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("index", ["metadata.jsonl", "prompts.txt"])
def test_folder_finds_the_grids(folder, index):
    lines = ["a fox", "a hen"]
    if index.endswith("jsonl"):
        lines = [
            json.dumps({"image": "1.png", "text": "a hen"}),
            json.dumps({"file_name": "0.png", "text": "a fox"}),
        ]
    (folder / index).write_text("\n".join(lines) + "\n")
    teacher = teachers.create({"name": "folder", "path": str(folder)})
    grids = teacher.draw([prompt("a hen"), prompt("a fox")], [1, 2])
    assert [grid.image.tobytes() for grid in grids] == [
        picture("a hen").tobytes(),
        picture("a fox").tobytes(),
    ]
    assert [grid.image.mode for grid in grids] == ["RGB", "RGB"]
    with pytest.raises(LookupError, match="has no grid of the prompt 'a cat'"):
        teacher.draw([prompt("a cat")], [0])


def test_folder_by_id(folder):
    entry = {"image": "0.png", "id": prompt("x").id}
    (folder / "list.jsonl").write_text(json.dumps(entry))
    teacher = teachers.create({"name": "folder", "path": str(folder), "index": "list.jsonl"})
    assert teacher.draw([prompt("x")], [0])[0].image.tobytes() == picture("a fox").tobytes()


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, FileNotFoundError, "has no index"),
        ("only one line", ValueError, "has 1 prompts, but .* has 2 pictures"),
        ("{", ValueError, "Line 1 of .* is not JSON"),
        (
            '{"image": "0.png"}',
            ValueError,
            "Line 1 of .* must be an object with `image` and with `text` or `id`",
        ),
        (
            '{"image": "9.png", "text": "x"}',
            FileNotFoundError,
            "names the picture .*9.png, which does not exist",
        ),
    ],
)
def test_folder_errors(folder, content, error, words):
    if content is not None:
        (folder / ("prompts.txt" if content.startswith("only") else "prompts.jsonl")).write_text(content)
    with pytest.raises(error, match=words):
        teachers.create({"name": "folder", "path": str(folder)})
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        teachers.create({"name": "folder", "path": str(folder / "none")})
