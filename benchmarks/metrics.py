"""What a metric of pictures costs beside the network itself, beside torchmetrics' and beside a plain loop.

    python benchmarks/metrics.py            a quarter of an hour; prints a table, writes JSON
    python benchmarks/metrics.py --quick    some minutes

One CLIP with random weights (ViT-B/32 by its sizes; a smaller one with --quick), the same pictures, in one
run:

- rate: pictures a second of CPU time by `dsd.metrics.ImageSimilarity`, beside a plain loop over batches with
  transformers' model and the same transform; beside torchmetrics' `CLIPScore`; and beside one picture at a
  time, as many evaluation scripts do it. What was remembered is emptied between runs;
- sharing: pictures through the network, and seconds, for five metrics on the same pictures, with one
extractor
  and with one each;
- memory: resident memory after so many pictures, no two alike, through one metric.

Each pair is measured in turn, several times (`measuring.seconds`), so that the machine's drift hits both
alike.
"""

import argparse
import json
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch
import torchmetrics
import transformers
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchmetrics.multimodal.clip_score import CLIPScore

from dsd import metrics
from dsd.extractors import TRANSFORMS, Network
from dsd.extractors.sharing import SharedExtractor

BATCH = 32
WANTED = 0.9
SIDE_PX = 256


def make_pictures(count: int, side_px: int = SIDE_PX, seed: int = 0) -> list[Image.Image]:
    """Smooth noise: no two are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(x).resize((side_px, side_px), Image.Resampling.BICUBIC) for x in coarse]


def make_clip(quick: bool) -> transformers.CLIPModel:
    """OpenAI's ViT-B/32 by its sizes, or a quarter of its depth, with random weights."""
    torch.manual_seed(0)
    layers = 3 if quick else 12
    vision = {"num_hidden_layers": layers, "image_size": 224, "patch_size": 32}
    config = transformers.CLIPConfig(
        text_config={"num_hidden_layers": layers}, vision_config=vision, projection_dim=512
    )
    return transformers.CLIPModel(config).eval()


def network(clip: transformers.CLIPModel) -> Network:
    """As `dsd.extractors` has it for the preset "dreambench++/clip", on that model."""
    transform = TRANSFORMS["clip"]

    def pixels(images: list[Image.Image]) -> torch.Tensor:
        return torch.stack([transform(image) for image in images])

    return Network(pixels, lambda x: _tensor(clip.get_image_features(pixel_values=x)), str(transform))


def _tensor(found: Any) -> torch.Tensor:
    return found if isinstance(found, torch.Tensor) else found.pooler_output


@torch.no_grad()
def plain(clip: transformers.CLIPModel, one: Sequence[Image.Image], other: Sequence[Image.Image]) -> float:
    """A loop over batches: transform, forward, cosine, mean."""
    transform, total = TRANSFORMS["clip"], 0.0
    for start in range(0, len(one), BATCH):
        rows = []
        for images in (one, other):
            chosen = images[start : start + BATCH]
            pixels = torch.stack([transform(image) for image in chosen])
            rows.append(_tensor(clip.get_image_features(pixel_values=pixels)))
        total += float(torch.cosine_similarity(rows[0], rows[1]).sum())
    return total / len(one)


@torch.no_grad()
def one_by_one(
    clip: transformers.CLIPModel, one: Sequence[Image.Image], other: Sequence[Image.Image]
) -> float:
    """The same with a batch of one, and the reference anew each time."""
    transform, found = TRANSFORMS["clip"], []
    for pair in zip(one, other, strict=True):
        rows = [_tensor(clip.get_image_features(pixel_values=transform(image)[None])) for image in pair]
        found.append(float(torch.cosine_similarity(rows[0], rows[1])))
    return statistics.fmean(found)


def ours(net: Network, one: Sequence[Image.Image], other: Sequence[Image.Image]) -> float:
    """`ImageSimilarity`, which remembers nothing from before."""
    metric = metrics.ImageSimilarity(SharedExtractor(net))
    for start in range(0, len(one), BATCH):
        metric.update(list(one[start : start + BATCH]), list(other[start : start + BATCH]))
    return metric.compute()["score"].item()


class _Features(torch.nn.Module):
    """The model with features as tensors, as transformers 4 had them and torchmetrics 1.9 asks for."""

    def __init__(self, clip: transformers.CLIPModel) -> None:
        super().__init__()
        self.clip, self.config = clip, clip.config

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return _tensor(self.clip.get_image_features(pixel_values=pixel_values))


class _Processor:
    """transformers' image processor, called as torchmetrics does."""

    def __init__(self) -> None:
        self.images = transformers.CLIPImageProcessor()

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        return self.images(images=images, return_tensors="pt")


def by_torchmetrics(model: Any, one: Sequence[Image.Image], other: Sequence[Image.Image]) -> float:
    """Its `CLIPScore`, which prepares pictures as tensors rather than by PIL."""
    metric = CLIPScore(model_name_or_path=lambda: (model, _Processor()))  # type: ignore[arg-type]
    for start in range(0, len(one), BATCH):
        tensors = [
            [torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in images[start : start + BATCH]]
            for images in (one, other)
        ]
        metric.update(*tensors)
    return float(metric.compute()) / 100


def works_as_it_is(clip: transformers.CLIPModel) -> str:
    """Whether torchmetrics takes the model of the installed transformers; else what it says."""
    some = make_pictures(2)
    try:
        by_torchmetrics(clip, some, some)
    except (AttributeError, TypeError) as error:
        return f"no: {type(error).__name__}: {error}"
    return "yes"


def rates(clip: transformers.CLIPModel, repeats: int, count: int) -> dict[str, Any]:
    """Of each other way: pictures a second of CPU time beside ours, and how far the values are apart."""
    one, other = make_pictures(count), make_pictures(count, seed=1)
    net, features = network(clip), _Features(clip)
    ways: dict[str, Callable[[], float]] = {
        "plain loop": lambda: plain(clip, one, other),
        "torchmetrics CLIPScore": lambda: by_torchmetrics(features, one, other),
        "one by one": lambda: one_by_one(clip, one, other),
    }
    value = ours(net, one, other)
    found: dict[str, Any] = {}
    for name, way in ways.items():
        apart = abs(value - way())
        ratio = measuring.seconds(lambda: ours(net, one, other), way, repeats)
        found[name] = {
            "dsd_per_second": 2 * count / ratio.ours,
            "theirs_per_second": 2 * count / ratio.theirs,
            "speed": 1 / ratio.ratio,
            "quartiles": [1 / ratio.high, 1 / ratio.low],
            "apart": apart,
        }
    return found


def sharing(clip: transformers.CLIPModel, count: int) -> dict[str, dict[str, float]]:
    """Pictures through the network and seconds, for five metrics on the same pictures."""
    one, other, truth = (make_pictures(count, seed=seed) for seed in range(3))
    found = {}
    for way in ("shared", "each its own"):
        seen = 0
        net = network(clip)
        embed = net.embed

        def counted(x: torch.Tensor, embed: Callable[[torch.Tensor], torch.Tensor] = embed) -> torch.Tensor:
            nonlocal seen
            seen += len(x)
            return embed(x)

        net.embed = counted
        whole = SharedExtractor(net)

        def extractor(way: str = way, net: Network = net, whole: SharedExtractor = whole) -> SharedExtractor:
            return whole if way == "shared" else SharedExtractor(net)

        start = time.perf_counter()
        metrics.ImageSimilarity(extractor()).update(one, other)
        sets = [list(pair) for pair in zip(other, truth, strict=True)]
        metrics.ImageSimilarity(extractor(), reduction="max").update(one, sets)
        metrics.CopyPasteScore(extractor()).update(one, truth, other)
        metrics.IntraPromptDiversity(extractor()).update([one])
        metrics.ImageSimilarity(extractor()).update(one, truth)
        found[way] = {"forwards": seen, "seconds": time.perf_counter() - start}
    return found


def memory(counts: Sequence[int]) -> dict[int, float]:
    """Resident MiB after so many pictures through one metric that may remember 1 MiB.

    The network is a thumbnail, so that it is the metric's memory that is seen, and not what a network's
    batches leave in the allocator.
    """
    found: dict[int, float] = {}
    extractor = SharedExtractor(thumbnails, capacity_bytes=2**20)
    metric = metrics.ImageSimilarity(extractor)
    done = 0
    for count in counts:
        while done < count:
            one, other = (make_pictures(BATCH, 128, seed=done + i) for i in range(2))
            metric.update(one, other)
            done += 2 * BATCH
        found[count] = _resident_mib()
    return found


def thumbnails(images: list[Image.Image]) -> np.ndarray:
    """13 x 13 px of each picture, 507 numbers."""
    return np.stack([np.asarray(x.resize((13, 13)), dtype=np.float32).ravel() + 1 for x in images])


def overhead(count: int) -> float:
    """Microseconds a picture of everything but the network: reading, digest, memory, cosine, sums."""
    images = make_pictures(count)
    extractor = SharedExtractor(lambda given: np.ones((len(given), 512), dtype=np.float32))
    metric = metrics.ImageSimilarity(extractor)
    metric.update(images, images)
    times = []
    for _ in range(5):
        extractor.forget()
        start = time.perf_counter()
        metric.update(images, images[::-1])
        times.append((time.perf_counter() - start) / (2 * count) * 1e6)
    return statistics.median(times)


def _resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines() if Path("/proc").exists() else []:
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller network, fewer pictures")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/metrics.json"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    console, quick = Console(), arguments.quick
    clip = make_clip(quick)
    found: dict[str, Any] = {"rates": rates(clip, *(3, 64) if quick else (3, 96))}
    found["torchmetrics_works_as_it_is"] = works_as_it_is(clip)
    found["sharing"] = sharing(clip, 32 if quick else 64)
    found["overhead_us"] = overhead(200)
    found["resident_mib"] = memory([1000, 5000, 10_000] if quick else [1000, 10_000, 40_000])
    table = Table("what", "measured", "wanted", title="metrics of pictures")
    for name, x in found["rates"].items():
        rate = f"{x['dsd_per_second']:.1f} pictures a second, {name} {x['theirs_per_second']:.1f}"
        speed = f"{x['speed']:.2f} times ({x['quartiles'][0]:.2f} to {x['quartiles'][1]:.2f})"
        wanted = f"at least {WANTED} times"
        table.add_row(f"dsd beside {name}", f"{rate}: {speed}; values {x['apart']:.0e} apart", wanted)
    table.add_row("torchmetrics works as it is", found["torchmetrics_works_as_it_is"], "")
    for way, measured in found["sharing"].items():
        told = f"{measured['forwards']:.0f} pictures through the network, {measured['seconds']:.2f} s"
        table.add_row(f"five metrics, {way}", told, "each picture once" if way == "shared" else "")
    table.add_row("all but the network", f"{found['overhead_us']:.0f} us a picture of {SIDE_PX} px", "")
    for count, mib in found["resident_mib"].items():
        table.add_row(f"memory after {count:,}", f"{mib:.0f} MiB", "flat")
    console.print(table)
    found["machine"] = platform.processor() or platform.machine()
    found["versions"] = {x.__name__: x.__version__ for x in (torch, torchmetrics, transformers)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"Written to {arguments.out}.")


if __name__ == "__main__":
    main()
