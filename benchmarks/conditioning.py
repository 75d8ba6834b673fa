"""What dsd adds to the stock classes in time and memory, for every conditioning.

    python benchmarks/conditioning.py            a few minutes on one core; prints a table, writes JSON
    python benchmarks/conditioning.py --quick    about a minute, rougher

The model is a random `FluxTransformer2DModel` of width 384 with the text encoders and the autoencoder of the
embedded small model: large enough that matrix products weigh as they do in training, small enough that what
dsd adds in Python is seen. Both sides run the same modules on the same tokens; what is compared is

- forward: `Conditioning.velocity` against the stock classes on ready-made tokens;
- training: `Student.losses`, backward, optimiser against a bare loop on ready-made tokens, LoRA of rank 16;
- sampling: `DSDPipeline` against the stock pipeline, loaded from one folder of `Student.save_pretrained`;
- guidance: a step with image and text guidance against three full predictions of the stock classes, one
  after the other, as in the release; then with one of the scales at 1.

Memory is the peak of what PyTorch allocates beyond the weights, in the same runs.
"""

import argparse
import contextlib
import json
import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import FluxTransformer2DModel
from measuring import Ratio, peaks, seconds, single_thread
from rich.console import Console
from rich.table import Table
from stock import FRAME, GUIDANCE, SETTINGS, Setting
from torch import Tensor
from torch.nn import functional

from dsd import DSDPipeline, Student, mini
from dsd.backbones import Batch, FluxBackbone, RawBatch, Reference, Text
from dsd.backbones.packing import grid_ids, pack
from dsd.guidance import Guidance

BATCH = 2
STEPS = 4
PROMPT = "a red creature with horns in the snow"
LIMITS = {"forward": 1.03, "training": 1.03, "sampling": 1.02, "guidance": 1.0}


def model() -> FluxBackbone:
    """The embedded model with a larger, random transformer."""
    backbone = FluxBackbone(str(mini.path()))
    assert backbone.denoiser is not None
    config = dict(backbone.denoiser.config)
    config |= {"num_attention_heads": 6, "attention_head_dim": 64, "axes_dims_rope": (16, 24, 24)}
    torch.manual_seed(0)
    backbone.denoiser = FluxTransformer2DModel.from_config(config)
    return backbone.requires_grad_(False)


class Side:
    """One conditioning's student, its batch, and the same tokens ready-made for the stock classes."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.student = Student(model(), setting.spec, lora={"rank": 16}, frame_size=(FRAME, FRAME))
        generator = torch.Generator().manual_seed(1)
        pixels = torch.rand(2, BATCH, 3, FRAME, FRAME, generator=generator) * 2 - 1
        ids = [str(i) for i in range(BATCH)]
        raw = RawBatch(ids=ids, reference=pixels[0], target=pixels[1], captions=[PROMPT] * BATCH)
        self.reference_pixels = pixels[0, :1]
        self.batch: Batch = self.student.encode(raw)
        self.empty = self.student.backbone.encode_text([""] * BATCH)
        self.x_0 = self.student.conditioning.canvas(self.batch.reference, self.batch.target)
        self.noise = torch.randn(self.x_0.shape, generator=generator)
        self.t = torch.rand(BATCH, generator=generator)
        self.tokens, self.noise_tokens = pack(self.x_0), pack(self.noise)
        self.ids = grid_ids(*self.x_0.shape[-2:])
        self.seen = _ready(self.batch.reference)
        self.optimizer = self.student.configure_optimizers()

    def ours(self, reference: Reference | None = None, text: Text | None = None) -> Tensor:
        """The velocity by dsd."""
        student = self.student
        return student.conditioning.velocity(
            student.backbone,
            self.noise,
            self.t,
            reference or self.batch.reference,
            text or self.batch.text,
            GUIDANCE,
        )

    def stock(self, seen: Tensor | None = None, text: Text | None = None) -> Tensor:
        """The same by the stock classes, as tokens."""
        seen = self.seen if seen is None else seen
        text = text or self.batch.text
        return self.setting.predict(self.student, self.noise_tokens, self.ids, self.t, seen, text)

    def our_step(self) -> None:
        """A training step by dsd."""
        self.student.losses(self.batch, torch.Generator().manual_seed(2))[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def stock_step(self) -> None:
        """A bare training step."""
        generator = torch.Generator().manual_seed(2)
        noise = torch.randn(self.tokens.shape, generator=generator)
        t = torch.sigmoid(torch.randn(BATCH, generator=generator))
        x_t = torch.lerp(self.tokens, noise, t[:, None, None])
        output = self.setting.predict(self.student, x_t, self.ids, t, self.seen, self.batch.text)
        functional.mse_loss(output, noise - self.tokens).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def our_guidance(self, image: float, text: float, batched: bool = False) -> Tensor:
        """A guided velocity by dsd."""
        student, guidance = self.student, Guidance(image=image, text=text, skip_steps=0, batched=batched)

        def predict(x_t: Tensor, t: Tensor, reference: Reference, caption: Text, _source: str) -> Tensor:
            return student.conditioning.velocity(student.backbone, x_t, t, reference, caption, GUIDANCE)

        batch = self.batch
        return guidance.velocity(predict, 0, self.noise, self.t, batch.reference, batch.text, self.empty)

    def stock_guidance(self, image: float, text: float) -> Tensor:
        """The release's three predictions, one after the other."""
        nothing = self.stock(torch.zeros_like(self.seen), self.empty)
        shown = self.stock(self.seen, self.empty)
        full = self.stock()
        return nothing + image * (shown - nothing) + text * (full - shown)


def _ready(reference: Reference) -> Tensor:
    if reference.latents is not None:
        return pack(reference.latents)
    assert reference.tokens is not None
    return reference.tokens


@contextlib.contextmanager
def lengths(network: Any) -> Iterator[list[int]]:
    """Numbers of image tokens that a denoiser gets, call by call."""
    found: list[int] = []

    def look(module: Any, args: Any, given: Mapping[str, Any]) -> None:
        found.append(given["hidden_states"].shape[1])

    with network.register_forward_pre_hook(look, with_kwargs=True):
        yield found


def measure(name: str, quick: bool) -> Iterator[tuple[str, str, Ratio]]:
    """All ratios of one conditioning: (what, a key of `LIMITS`, ratio)."""
    side = Side(SETTINGS[name])
    few, many = (3, 5) if quick else (9, 15)
    with torch.no_grad():
        side.student.eval()
        output = side.stock()
        assert torch.allclose(pack(side.ours()), output, atol=1e-4), "the two sides compute different things"
        yield "forward", "forward", seconds(side.ours, side.stock, many)
        yield "forward, memory", "forward", peaks(side.ours, side.stock)
        for image, text in ((2.0, 3.0), (1.0, 3.0), (2.0, 2.0), (2.0, 1.0)):
            ours, theirs = partial(side.our_guidance, image, text), partial(side.stock_guidance, image, text)
            label = f"guidance {image:g}, {text:g}"
            yield label, "guidance", seconds(ours, theirs, few)
            if (image, text) == (2.0, 3.0):
                yield f"{label}, memory", "guidance", peaks(ours, theirs)
                batched = partial(side.our_guidance, image, text, batched=True)
                yield f"{label}, in one call", "guidance", seconds(batched, theirs, few)
    side.student.train()
    yield "training", "training", seconds(side.our_step, side.stock_step, few)
    yield "training, memory", "training", peaks(side.our_step, side.stock_step)
    with tempfile.TemporaryDirectory() as folder:
        side.student.save_pretrained(folder)
        yield from sampling(SETTINGS[name], Path(folder), few)


def sampling(setting: Setting, folder: Path, repeats: int) -> Iterator[tuple[str, str, Ratio]]:
    """Our pipeline against the stock one, both from one folder."""
    ours = DSDPipeline.from_pretrained(folder)
    card = json.loads((folder / "dsd.json").read_text())
    theirs = getattr(diffusers, card["stock_pipeline"]).from_pretrained(folder)
    if card["stock_pipeline"] == "FluxPipeline":
        theirs.load_ip_adapter(
            folder, weight_name="ip_adapter.safetensors", image_encoder_pretrained_model_name_or_path=None
        )
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    reference = torch.rand(1, 3, FRAME, FRAME, generator=torch.Generator().manual_seed(3)) * 2 - 1
    shown = reference / 2 + 0.5
    common: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "pt"}
    common |= {"height": FRAME, "width": FRAME}
    text_tokens = theirs.tokenizer_2.model_max_length

    def draw_ours() -> Any:
        return ours(shown, PROMPT, seed=0, **common).images

    def draw_theirs() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        given = {"prompt": PROMPT, "max_sequence_length": text_tokens, "generator": generator}
        return setting.draw(theirs, reference, **given, **common)

    with lengths(ours.backbone.denoiser) as our_tokens, lengths(theirs.transformer) as their_tokens:
        assert draw_ours().shape == draw_theirs().shape
    assert our_tokens == their_tokens, "the two pipelines do different work"
    yield "sampling", "sampling", seconds(draw_ours, draw_theirs, repeats)
    yield "sampling, memory", "sampling", peaks(draw_ours, draw_theirs)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/conditioning.json"))
    arguments = parser.parse_args()
    single_thread()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    console, rows = Console(), []
    table = Table(
        "conditioning", "what", "ours", "stock", "ratio", "quartiles", "at most", title="ours / stock"
    )
    for name in arguments.only:
        for what, key, found in measure(name, arguments.quick):
            row = {"conditioning": name, "what": what, "limit": LIMITS[key], **asdict(found)}
            rows.append({**row, "kept": found.ratio <= LIMITS[key]})
            memory = what.endswith("memory")
            shown = [f"{x / 2**20:.1f} MiB" if memory else f"{x:.3f} s" for x in (found.ours, found.theirs)]
            style = None if rows[-1]["kept"] else "bold red"
            spread = "" if memory else f"{found.low:.3f} to {found.high:.3f}"
            table.add_row(name, what, *shown, f"{found.ratio:.3f}", spread, f"{LIMITS[key]}", style=style)
            console.print(f"{name}: {what}: {found.ratio:.3f}")
    console.print(table)
    denoiser = model().denoiser
    assert denoiser is not None
    flux = denoiser.config
    about = {
        "versions": {package.__name__: package.__version__ for package in (torch, diffusers)},
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "frame_px": FRAME,
        "batch_size": BATCH,
        "width": flux.num_attention_heads * flux.attention_head_dim,
        "blocks": [flux.num_layers, flux.num_single_layers],
        "seconds": "CPU time of the process, median",
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**about, "ratios": rows}, indent=2) + "\n")
    console.print(f"Written to {arguments.out}.")


if __name__ == "__main__":
    main()
