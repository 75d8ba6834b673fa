"""Parts of the scripts that train the small world."""

import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from torch import nn
from torch.nn import functional

from dsd import mini
from dsd.mini.train.__main__ import export, unpack
from dsd.mini.train.align import COLOURS, NUM_COLOURS, NUM_NUMBERS, Aligner, Facts
from dsd.mini.train.autoencoder import CONFIG, compose, pictures
from dsd.mini.train.bank import PanelBank
from dsd.mini.train.examples import LAYOUTS, LENGTHS, Examples, apart, at_once
from dsd.mini.train.fast import attention, fast
from dsd.mini.train.guidance import PANEL_SHARE, TEXT_SHARE, follow, guided
from dsd.mini.train.loop import Training
from dsd.mini.train.metric import SEEN, broad_error, error_metric
from dsd.mini.train.muon import orthogonalise
from dsd.mini.train.relatives import family
from dsd.mini.train.teacher import GIVEN, Teacher, give, load_teacher
from dsd.mini.world import is_held_out


def _packed(latents: torch.Tensor) -> torch.Tensor:
    return FluxPipeline._pack_latents(latents, *latents.shape)


@pytest.mark.parametrize("layout", [(2, 2), (1, 2)])
def test_a_grid_taken_apart_is_its_panels_packed_alone(layout: tuple[int, int]) -> None:
    panels = torch.randn(3 * layout[0] * layout[1], 16, 8, 8)
    grids = _packed(compose(panels, layout))
    assert torch.equal(apart(grids, layout), _packed(panels))
    assert torch.equal(at_once(_packed(panels), layout), grids)


@pytest.mark.parametrize("shape", [(24, 24), (16, 80), (80, 16)])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_orthogonalising_is_newton_schulz_in_few_bits(shape: tuple[int, int], spread: float) -> None:
    """Also of a matrix with singular values far apart, where iterating the Gram matrix alone goes astray."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix @ torch.diag(torch.logspace(0, math.log10(spread), shape[1], dtype=torch.float64))
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    found = orthogonalise(matrix)
    assert found.dtype == matrix.dtype
    assert torch.cosine_similarity(found.flatten(), x.flatten(), 0) > 0.9995
    values = torch.linalg.svdvals(found)
    assert 0.5 < values[: min(shape) // 3].mean() < 1.3


def test_relatives_differ_in_one_thing_and_are_in_no_held_out_combination() -> None:
    for index in range(20):
        first, *others = family(index)
        for other in others:
            differ = [name for name, value in asdict(first).items() if asdict(other)[name] != value]
            assert len(differ) == 1
            assert not is_held_out(other)


@pytest.mark.parametrize("layout", ["2x2", "1x2", "1x1"])
def test_half_of_the_grids_have_one_panel_of_less_noise_that_is_not_asked_for(layout: str) -> None:
    count, (rows, columns) = 400, {"2x2": (2, 2), "1x2": (1, 2), "1x1": (1, 1)}[layout]
    generator = torch.Generator().manual_seed(0)
    batch = Examples(
        x_0=torch.zeros(count, 16 * rows * columns, 64),
        prompts=[""] * count,
        captions=[],
        layout=layout,
        scenes=torch.zeros(count, rows * columns, dtype=torch.long),
        facts=None,
        rows=4 * rows,
        columns=4 * columns,
    )
    t, noise = torch.rand(count, generator=generator), torch.ones_like(batch.x_0)
    x_t, asked = give(batch, t, noise, generator)
    levels = apart(x_t, (rows, columns)).unflatten(0, (count, -1))
    assert torch.equal(levels.amin((2, 3)), levels.amax((2, 3)))  # a panel has one level
    level, wanted = levels[..., 0, 0], apart(asked, (rows, columns)).unflatten(0, (count, -1))[..., 0, 0]
    assert torch.equal(level[wanted == 1], t[:, None].expand_as(level)[wanted == 1])
    assert (level[wanted == 0] < t[:, None].expand_as(level)[wanted == 0]).all()
    given = (wanted == 0).sum(1)
    assert given.max() == (layout != "1x1")
    assert abs(given.float().mean() - GIVEN[layout]) < 0.08


def test_a_training_goes_on_along_its_curve_and_restarts_it_when_asked(tmp_path: Path) -> None:
    def trained(minutes: float, restart: bool = False) -> Training:
        training = Training(tmp_path, minutes, warmup_steps=1, restart=restart)
        next(training.run(model=nn.Linear(1, 1)), None)
        return training

    first = trained(10.0)
    first.spent_s, first.step = 300.0, 7
    first.save()
    halfway = trained(10.0)
    assert halfway.step == 7
    assert halfway.rate() == pytest.approx(0.51)
    anew = trained(10.0, restart=True)
    assert anew.rate() == pytest.approx(1.0)
    anew.spent_s = 450.0
    anew.save()
    assert trained(10.0).rate() == pytest.approx(0.51)


def test_attention_taken_apart_is_the_fused_one_with_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 6, 29, 32, generator=generator).unbind()
    mask = torch.rand(29, 29, generator=generator) > 0.3
    for options in ({}, {"is_causal": True}, {"attn_mask": mask}):
        found = []
        for function in (attention, functional.scaled_dot_product_attention):
            given = [x.clone().requires_grad_() for x in (query, key, value)]
            out = function(*given, **options)
            out.square().sum().backward()
            found.append([out, *(x.grad for x in given)])
        torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)
    fused = functional.scaled_dot_product_attention
    with fast():
        assert functional.scaled_dot_product_attention is attention
        assert functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.bfloat16
    assert functional.scaled_dot_product_attention is fused


class _Decoder(AutoencoderKL):
    """Decodes every latent to a block of 8 x 8 px: one channel shows, another one ten times as much."""

    def __init__(self) -> None:
        super().__init__(**CONFIG, shift_factor=2.0, scaling_factor=0.5)
        self.given: list[torch.Tensor] = []

    def decode(self, latents: torch.Tensor) -> Any:  # type: ignore[override]
        self.given.append(latents)
        seen = latents[:, :1] + 10 * latents[:, 1:2]
        return SimpleNamespace(sample=seen.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_errors_count_as_far_as_they_are_seen() -> None:
    decoder = _Decoder()
    latents = torch.randn(3, 16, 8, 8)
    weights = error_metric(decoder, latents, torch.Generator().manual_seed(0))
    for given, panel in zip(decoder.given, latents, strict=True):
        torch.testing.assert_close(given[-1], panel / 0.5 + 2.0)  # the last one is not changed
    counted = (torch.eye(64) @ weights).square().sum(1)
    assert counted.mean() == pytest.approx(1.0, abs=1e-5)
    by_channel = counted.reshape(16, 4).mean(1)
    assert by_channel[2:] == pytest.approx(torch.full((14,), 1 - SEEN), abs=1e-5)
    shown = by_channel[:2] - (1 - SEEN)
    assert shown[1] / shown[0] == pytest.approx(100, rel=1e-3)


def test_the_broad_error_is_that_of_the_colours_of_the_panels_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    colours = torch.randn(5, 2, 16, 1, 1, generator=generator)  # of two panels side by side
    detail = torch.randn(5, 2, 16, 8, 8, generator=generator)
    panels = colours + detail - detail.mean((3, 4), keepdim=True)
    packed = _packed(torch.cat([panels[:, 0], panels[:, 1]], 3))
    both = torch.ones(5, 32, 1)
    found = broad_error(packed, both, torch.eye(64), (1, 2))
    torch.testing.assert_close(found, colours.square().mean())  # whatever the detail
    seen = torch.randn(64, 64, generator=generator)
    even = _packed(colours[:, 1].expand(-1, -1, 2, 2))  # one token of that colour
    right = both.unflatten(1, (4, 8)).clone()
    right[:, :, :4] = 0
    found = broad_error(packed, right.flatten(1, 2), seen, (1, 2))
    torch.testing.assert_close(found, (even @ seen).square().mean(), rtol=1e-4, atol=1e-4)


def test_shades_count_by_their_distance() -> None:
    """The loss of two colours' numbers that are off by d grows by d, that of a place by its square."""
    torch.manual_seed(0)
    aligner = Aligner(8)
    for parameter in aligner.out.parameters():
        nn.init.zeros_(parameter)

    def loss(number: int, off: float) -> float:
        numbers = torch.zeros(1, 1, NUM_NUMBERS)
        numbers[..., number] = off
        aligner._tokens = torch.zeros(1, 16, 8)
        classes = torch.zeros(1, 1, 4, dtype=torch.long)
        return float(aligner(4, 4, Facts(classes=classes, numbers=numbers)).detach())

    nothing = loss(0, 0.0)
    for number in range(NUM_COLOURS):
        assert loss(number, -0.5) - nothing == pytest.approx(COLOURS * 0.5 / NUM_COLOURS, rel=1e-4)
    for number in range(NUM_COLOURS, NUM_NUMBERS):
        assert loss(number, 0.5) - nothing == pytest.approx(0.25 / (NUM_NUMBERS - NUM_COLOURS), rel=1e-4)


def test_half_of_the_canvases_are_encoded_panel_by_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsd.mini.train.bank.CHUNK", 10)
    bank = PanelBank(tmp_path, 10, workers=1)
    apart_from_each_other = black = 0
    for seed in range(60):
        canvas, parts, layout = pictures(bank, np.random.default_rng(seed), 8)
        assert torch.equal(compose(parts, layout), canvas)
        apart_from_each_other += parts.shape != canvas.shape
        if canvas.shape[2:] == (64, 128):
            dark = (canvas[..., 64:] == -1).flatten(1).all(1)
            assert dark.sum() in (0, 2)  # of the four pairs
            assert not (dark.any() and layout == (1, 2))  # black stands only where a whole is encoded
            black += bool(dark.any())
    assert 8 < apart_from_each_other < 24  # half of the half that has several panels
    assert 2 < black < 14


def test_the_shipped_weights_are_unpacked_and_begun_at(tmp_path: Path) -> None:
    unpack(tmp_path)
    model = load_teacher(tmp_path)
    model.begin_at(tmp_path / "teacher" / "begin")
    shipped = FluxPipeline.from_pretrained(mini.path())
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        for name, value in getattr(shipped, part).state_dict().items():
            assert torch.equal(getattr(model, part).state_dict()[name], value), name
    AutoencoderKL.from_pretrained(tmp_path / "autoencoder" / "vae")
    (tmp_path / "teacher" / "checkpoint.pt").touch()
    with pytest.raises(FileExistsError, match="--work"):
        unpack(tmp_path)


def test_a_refined_decoder_is_exported_without_the_folder_it_was_trained_in(tmp_path: Path) -> None:
    unpack(tmp_path)
    vae = AutoencoderKL.from_pretrained(tmp_path / "autoencoder" / "vae")
    torch.nn.init.constant_(vae.decoder.conv_out.bias, 0.25)
    vae.save_pretrained(tmp_path / "decoder" / "vae")
    (tmp_path / "decoder" / "checkpoint.pt").touch()
    export(tmp_path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "flux").iterdir()] == ["vae"]
    assert str(tmp_path) not in (tmp_path / "out" / "flux" / "vae" / "config.json").read_text()
    shipped = AutoencoderKL.from_pretrained(tmp_path / "out" / "flux" / "vae")
    assert (shipped.decoder.conv_out.bias == 0.25).all()


def test_nothing_trained_is_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to export"):
        export(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Told(Teacher):
    """A denoiser that adds up what it sees: the mean of the tokens, the time, the length of the prompt."""

    def __init__(self) -> None:
        nn.Module.__init__(self)  # no network

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        guidance: torch.Tensor,
        batch: Examples,
        prompts: list[str],
        length: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert (guidance == 1).all()
        assert x_t.shape[1] == batch.rows * batch.columns
        assert length == LENGTHS[batch.layout]
        words = torch.tensor([float(len(prompt)) for prompt in prompts])
        return x_t + (x_t.mean((1, 2)) + t + words)[:, None, None], x_t


@pytest.mark.parametrize("layout", ["2x2", "1x2", "1x1"])
def test_guidance_draws_from_no_prompt_and_from_each_panel_alone(layout: str) -> None:
    generator, (rows, columns) = torch.Generator().manual_seed(0), LAYOUTS[layout]
    n, count = 3, rows * columns
    captions = ["c" * (2 + i) for i in range(n * count)]
    x_t = torch.randn(n, 16 * count, 64, generator=generator)
    t, strength = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1.0, 3.5, 5.0])
    batch = Examples(
        x_0=torch.zeros_like(x_t),
        prompts=["p" * 20, "p" * 30, "p" * 40],
        captions=captions,
        layout=layout,
        scenes=torch.zeros(n, count, dtype=torch.long),
        facts=None,
        rows=4 * rows,
        columns=4 * columns,
    )
    found = guided(_Told(), x_t, t, strength, batch)
    grid = x_t.unflatten(1, (4 * rows, 4 * columns))
    for i in range(n):
        words = 20.0 + 10 * i
        for panel in range(count):
            place = (slice(panel // columns * 4, panel // columns * 4 + 4),)
            place += (slice(panel % columns * 4, panel % columns * 4 + 4),)
            own = grid[i][place]
            together = own + x_t[i].mean() + t[i] + words
            alone = own + own.mean() + t[i] + len(captions[i * count + panel])
            wanted = together + TEXT_SHARE * (strength[i] - 1) * words
            if count > 1:
                wanted = wanted + PANEL_SHARE * (strength[i] - 1) * (together - alone)
            answer = found[i].unflatten(0, (4 * rows, 4 * columns))[place]
            torch.testing.assert_close(answer, wanted, atol=1e-4, rtol=1e-5)


def test_a_guidance_follows_the_teacher_that_it_was_distilled_from(tmp_path: Path) -> None:
    path, before, after = tmp_path / "checkpoint.pt", {"w": torch.ones(3)}, {"w": torch.full((3,), 5.0)}
    follow(path, before)
    assert not path.exists()
    made = {"model": {"w": torch.full((3,), 1.5)}, "average": {"w": torch.full((3,), 0.25)}}
    torch.save({**made, "source": before, "step": 7}, path)
    for _ in range(2):  # once more changes nothing
        follow(path, after)
        found = torch.load(path, weights_only=True)
        assert found["model"]["w"].tolist() == [5.5] * 3
        assert found["average"]["w"].tolist() == [4.25] * 3
        assert torch.equal(found["source"]["w"], after["w"])
        assert found["step"] == 7
    torch.save(made, path)
    with pytest.raises(ValueError, match="distil anew"):
        follow(path, after)
