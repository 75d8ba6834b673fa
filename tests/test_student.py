"""The student under a real Trainer: what is trained, resuming, averaging, saving."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from diffusers import FluxControlPipeline
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor

from dsd import DSDPipeline, Student, flow
from dsd.backbones import Batch, FluxBackbone, RawBatch, Reference, Text
from dsd.backbones.packing import grid_ids, pack
from dsd.ema import Ema
from dsd.pictures import ValidationPictures

LORA = {"rank": 2, "alpha": 4.0}


def _batch(count: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    return Batch(
        ids=[f"{seed}-{i}" for i in range(count)],
        reference=Reference(latents=draw(16, 4, 8)),
        target=draw(16, 4, 4),
        text=Text(tokens=draw(24, 24), pooled=draw(20)),
    )


class Batches:
    """The given batches as a loader; Lightning takes a plain list for several loaders."""

    def __init__(self, *batches: Batch) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


class Loader:
    """Six batches an epoch, in an order that depends on the epoch; it can be taken up in the middle."""

    def __init__(self) -> None:
        self.epoch = self.position = 0

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        while self.position < 6:
            self.position += 1
            yield _batch(seed=100 * self.epoch + self.position)
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


def _trainer(folder: Path, max_steps: int, **arguments: Any) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=max_steps, accelerator="cpu", default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, **{"logger": False, "enable_checkpointing": False, **arguments},
    )  # fmt: skip


def _student(tiny_flux: Path, **arguments: Any) -> Student:
    return Student(base=str(tiny_flux), **{"lora": LORA, "lr": 1e-2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"lora": LORA}, {"x_embedder", "lora_A", "lora_B"}),
        ({"lora": {**LORA, "targets": "blocks"}}, {"x_embedder", "lora_A", "lora_B"}),
        ({"lora": None, "train": "added"}, {"x_embedder"}),
    ],
)
def test_gradients_reach_what_is_declared_and_nothing_else(
    tiny_flux: Path, arguments: dict[str, Any], expected: set[str]
) -> None:
    student = _student(tiny_flux, **arguments)
    before = {name: p.clone() for name, p in student.named_parameters()}
    _trainer(tiny_flux.parent, 2).fit(student, Batches(_batch(), _batch(seed=1)))
    changed = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    declared = {name for name, p in student.named_parameters() if p.requires_grad}
    assert changed == declared
    assert all(any(part in name for part in expected) for name in declared)
    assert not any(name.startswith("backbone.denoiser.proj_out") for name in declared)  # PEFT's suffix trap
    blocks = arguments["lora"] is not None and arguments["lora"].get("targets") == "blocks"
    assert any("proj_out.lora_A" in name for name in declared) == blocks


def test_full_training_reaches_every_parameter_of_the_denoiser(tiny_flux: Path) -> None:
    student = _student(tiny_flux, lora=None, train="full")
    assert student.backbone.loaded == {"denoiser"}
    before = {name: p.clone() for name, p in student.named_parameters()}
    _trainer(tiny_flux.parent, 2).fit(student, Batches(_batch(), _batch(seed=1)))
    denoiser = dict(student.denoiser.named_parameters(prefix="backbone.denoiser"))
    assert [name for name, parameter in denoiser.items() if torch.equal(parameter, before[name])] == []


def test_loss_at_the_start_is_that_of_the_base(tiny_flux: Path) -> None:
    """Written out once more, with the base alone: times, dropout, noise (the target's first), path, velocity,
    mean over both frames."""
    student = _student(tiny_flux, time_sampling="uniform", text_dropout=0.0, reference_dropout=0.0)
    base = FluxBackbone(str(tiny_flux), parts=("denoiser",))
    batch, generator = _batch(), torch.Generator().manual_seed(7)
    ours, frames = student.losses(batch, torch.Generator().manual_seed(7))
    x_0 = torch.cat([batch.reference.latents[..., :4], batch.target], dim=-1)
    t = torch.rand(4, generator=generator)[:, None, None, None]
    torch.rand(2, 4, generator=generator)
    right, left = (torch.randn(4, 16, 4, 4, generator=generator) for _ in range(2))
    noise = torch.cat([left, right], dim=-1)
    x_t = (1 - t) * x_0 + t * noise
    with torch.no_grad():
        output = base.call(pack(x_t), t.flatten(), batch.text, grid_ids(4, 8), 1.0)
    error = (output - pack(noise - x_0)).square()
    torch.testing.assert_close(ours, error.mean())
    torch.testing.assert_close(frames[0], error.unflatten(1, (2, 4))[:, :, :2].mean())


def test_in_float64_the_same_is_computed(tiny_flux: Path) -> None:
    """Of the same draws, also from a batch and an empty caption in float32, and down to the gradients."""
    student = _student(tiny_flux, text_dropout=0.5, reference_dropout=0.5, loss_weighting="min_snr")
    batch, few = _batch(), _batch().to(dtype=torch.bfloat16)
    losses = [student.losses(given, torch.Generator().manual_seed(7))[0] for given in (batch, few)]
    assert {loss.dtype for loss in losses} == {torch.float32}
    student.double()
    exact, frames = student.losses(batch, torch.Generator().manual_seed(7))
    assert exact.dtype == frames.dtype == torch.float64
    torch.testing.assert_close(losses[0].double(), exact, rtol=1e-5, atol=0)
    assert losses[0].double() != exact
    wide, _ = student.losses(batch.to(dtype=torch.float64), torch.Generator().manual_seed(7))
    assert torch.equal(exact, wide)
    exact.backward()
    assert {p.grad.dtype for p in student.parameters() if p.grad is not None} == {torch.float64}


def test_frame_weights_and_time_shift_take_effect(tiny_flux: Path) -> None:
    def losses(**arguments: Any) -> tuple[Tensor, Tensor]:
        student = _student(tiny_flux, **arguments)
        return student.losses(_batch(), torch.Generator().manual_seed(7))

    total, frames = losses(frame_weights=(0.0, 1.0))
    assert total == frames[1]
    spec = {"law": "uniform", "shift": "schedule"}
    student = _student(tiny_flux, time_sampling=spec)
    times = student.objective.sample_times(5, 8, torch.Generator().manual_seed(1))
    plain = torch.rand(5, generator=torch.Generator().manual_seed(1))
    shift = torch.tensor(flow.mu_for(8, base_tokens=4, max_tokens=64)).exp().item()
    torch.testing.assert_close(times, flow.shift_times(plain, shift))


def test_dropout_hides_reference_and_caption(tiny_flux: Path) -> None:
    batch, other = _batch(), _batch(seed=1)
    reworded = replace(batch, text=other.text)

    def loss(batch: Batch, seen: float = 0.0, **arguments: Any) -> Tensor:
        student = _student(tiny_flux, **{"text_dropout": 1.0, "reference_dropout": 1.0, **arguments})
        with torch.no_grad():
            columns = student.denoiser.x_embedder.weight[:, 64:]
            columns += seen * torch.randn(columns.shape, generator=torch.Generator().manual_seed(3))
        return student.losses(batch, torch.Generator().manual_seed(7))[0]

    assert torch.equal(loss(batch), loss(reworded))
    assert not torch.equal(loss(batch, text_dropout=0.0), loss(reworded, text_dropout=0.0))
    # What is not shown cannot be seen, whatever the weights of the reference's channels.
    assert torch.equal(loss(batch), loss(batch, seen=1.0))
    assert not torch.equal(loss(batch, reference_dropout=0.0), loss(batch, seen=1.0, reference_dropout=0.0))


def test_loss_falls_on_one_batch(tiny_flux: Path, tmp_path: Path) -> None:
    student = _student(tiny_flux, lora=None, lr=1e-2, text_dropout=0.0, reference_dropout=0.0)
    batch = _batch()
    before = student.losses(batch, torch.Generator().manual_seed(0))[0]
    _trainer(tmp_path, 60).fit(student, Batches(*[batch] * 60))
    after = student.losses(batch, torch.Generator().manual_seed(0))[0]
    assert after < 0.7 * before


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_resumed_in_mid_epoch_equals_never_stopped(
    tiny_flux: Path, tmp_path: Path, ema_decay: float | None
) -> None:
    arguments = {"ema_decay": ema_decay, "warmup_steps": 5, "weight_decay": 0.1, "seed": 3}
    through = _student(tiny_flux, **arguments)
    _trainer(tmp_path, 10).fit(through, Loader())

    saved = ModelCheckpoint(dirpath=tmp_path, filename="stop", every_n_train_steps=4, save_top_k=-1)
    _trainer(tmp_path, 4, enable_checkpointing=True, callbacks=[saved]).fit(
        _student(tiny_flux, **arguments), Loader()
    )
    torch.manual_seed(99)
    resumed = _student(tiny_flux, **arguments)
    _trainer(tmp_path, 10).fit(resumed, Loader(), ckpt_path=tmp_path / "stop.ckpt", weights_only=False)

    ours, theirs = resumed.state_dict(), through.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_checkpoint_holds_only_what_is_trained(tiny_flux: Path, tmp_path: Path) -> None:
    student = _student(tiny_flux, ema_decay=0.9)
    trainer = _trainer(tmp_path, 2)
    trainer.fit(student, Batches(_batch(), _batch(seed=1)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    assert [name for name in state if not name.startswith("ema.")] == trained
    assert len([name for name in state if name.startswith("ema.average")]) == len(trained)

    loaded = Student.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert loaded.frame_size == student.frame_size == (32, 32)
    with pytest.raises(ValueError, match="same conditioning"):
        _student(tiny_flux, lora={"rank": 2, "targets": "blocks"}).load_state_dict(state)


def test_ema_follows_its_formula_and_swaps_without_loss() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    ema, expected = Ema([parameter], 0.5), torch.zeros(3)
    for step in range(6):
        with torch.no_grad():
            parameter += step
        ema.update([parameter])
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach()
    torch.testing.assert_close(ema.averages[0], expected)
    last = parameter.detach().clone()
    ema.swap([parameter])
    torch.testing.assert_close(parameter.detach(), expected)
    ema.swap([parameter])
    assert torch.equal(parameter.detach(), last)


def _trained(tiny_flux: Path, tmp_path: Path, **arguments: Any) -> Student:
    student = _student(tiny_flux, ema_decay=0.7, **arguments)
    _trainer(tmp_path, 6).fit(student, Loader())
    with torch.no_grad():  # far from where it started, so that a mistake shows
        for parameter in student._trained.values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return student


@pytest.mark.parametrize("lora", [LORA, {**LORA, "targets": "blocks"}, None])
def test_a_saved_student_draws_the_same_picture_in_stock_diffusers(
    tiny_flux: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    student = _trained(tiny_flux, tmp_path, lora=lora)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.save_pretrained(tmp_path / "last", ema=False)
    student.save_pretrained(tmp_path / "mean")
    student.save_pretrained(tmp_path / "small", components="trained")
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())

    reference, noise = torch.rand(1, 3, 32, 32), torch.randn(1, 16, 4, 8)
    arguments: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt"}

    def draw(pipe: DSDPipeline) -> Tensor:
        pipe.set_progress_bar_config(disable=True)
        images: Tensor = pipe(reference, "a red creature", latents=noise, **arguments).images
        return images

    live = draw(DSDPipeline(student.backbone, student.conditioning, student.frame_size))
    with student.ema_weights():
        live_mean = draw(DSDPipeline(student.backbone, student.conditioning, student.frame_size))
    assert not torch.allclose(live, live_mean, atol=1e-3)
    for folder, expected in [("last", live), ("mean", live_mean), ("small", live_mean)]:
        loaded = DSDPipeline.from_pretrained(tmp_path / folder)
        assert loaded.frame_size == (32, 32)
        torch.testing.assert_close(draw(loaded), expected, atol=1e-5, rtol=0)

    stock = FluxControlPipeline.from_pretrained(tmp_path / "last")
    stock.set_progress_bar_config(disable=True)
    condition = student.conditioning.encode(student.backbone, reference * 2 - 1).latents
    image = stock(
        "a red creature", control_image=pack(condition), latents=pack(noise), height=32, width=64,
        max_sequence_length=24, **arguments,
    ).images  # fmt: skip
    torch.testing.assert_close(image[..., 32:], live, atol=1e-5, rtol=0)
    assert not list((tmp_path / "last").rglob("*.bin"))
    card = json.loads((tmp_path / "last" / "dsd.json").read_text())
    assert card["conditioning"] == {"name": "parallel"}
    assert card["frame_size"] == [32, 32]
    adapters = {"adapters"} if lora else set()
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"transformer", "dsd.json"} | adapters


def test_pictures_and_words_train_as_their_encodings_do(tiny_flux: Path) -> None:
    student = _student(tiny_flux)
    pixels = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    raw = RawBatch(
        ids=["a", "b"], reference=pixels[0], target=pixels[1], captions=["a red creature", "the beach"]
    )
    encoded = student.encode(raw)
    scaled = pixels.float() / 255 * 2 - 1
    joint = student.backbone.encode_image(torch.cat([scaled[0], scaled[1]], dim=-1))
    torch.testing.assert_close(encoded.target, joint[..., 4:])
    losses = [
        student.losses(student._encoded(batch), torch.Generator().manual_seed(0))[0]
        for batch in (raw, encoded)
    ]
    assert torch.equal(*losses)
    with pytest.raises(TypeError, match="RawBatch"):
        student._encoded({"image": 1})  # type: ignore[arg-type]


def test_logs_and_pictures(tiny_flux: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference = torch.rand(3, 32, 32)
    arguments: dict[str, Any] = {"ema_decay": 0.9, "warmup_steps": 4}
    pictures = ValidationPictures(
        [reference], ["a red creature", "the beach"], every_n_steps=3, num_inference_steps=2
    )
    log = CSVLogger(tmp_path, name="log")
    student = _student(tiny_flux, **arguments)
    with caplog.at_level(logging.INFO):
        _trainer(tmp_path, 6, logger=log, callbacks=[pictures], log_every_n_steps=1).fit(
            student, Loader(), val_dataloaders=Batches(_batch(seed=50))
        )
    rows = (Path(log.log_dir) / "metrics.csv").read_text()
    for column in ("train/loss", "train/loss_reference", "train/loss_target", "lr", "val/loss"):
        assert column in rows.splitlines()[0]
    names = sorted(path.name for path in (Path(log.log_dir) / "pictures").iterdir())
    assert names == ["step-0000003-0.png", "step-0000006-0.png"]
    assert Image.open(Path(log.log_dir) / "pictures" / names[0]).size == (3 * 32, 32)
    assert "x_embedder.weight" in caplog.text

    without = _student(tiny_flux, **arguments)
    _trainer(tmp_path, 6).fit(without, Loader())
    drawn = student.state_dict()
    assert all(torch.equal(value, drawn[name]) for name, value in without.state_dict().items())


def test_seed_decides_initialisation_and_leaves_global_randomness_alone(tiny_flux: Path) -> None:
    torch.manual_seed(0)
    one = _student(tiny_flux, seed=1)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(5)
    same, other = _student(tiny_flux, seed=1), _student(tiny_flux, seed=2)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert not all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_dropout": 1.5}, "from 0 to 1"),
        ({"frame_weights": (0.0, 0.0)}, "no loss"),
        ({"time_sampling": "sigmoid"}, "Allowed: logit_normal"),
        ({"lora": {"targets": "to_qq"}}, "No linear layer"),
        ({"ema_decay": 1.0}, "in \\[0, 1\\)"),
        ({"conditioning": "paralel"}, "parallel"),
    ],
)
def test_errors_say_what_is_allowed(tiny_flux: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        _student(tiny_flux, **arguments)


def test_saving_onto_a_file_is_refused(tiny_flux: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        _student(tiny_flux).save_pretrained(tmp_path / "file")
