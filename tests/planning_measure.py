"""What a training really takes on this machine, for comparison with a plan. Run as a program.

It knows nothing of the plan's counting: a student with random weights is trained for three steps by
`lightning.Trainer`, and PyTorch's CPU allocator reports every allocation and release to the profiler.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import lightning
import torch
from torch.profiler import ProfilerActivity, profile

from dsd import Student
from dsd.backbones import Batch, FluxBackbone, Reference, Text
from dsd.counting import skeleton

STEPS = 3


def main(setting):
    """Train, and print the peak in bytes."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        train(setting)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    print(max(e["args"]["Total Allocated"] for e in memory), flush=True)


def train(setting):
    """Three steps on one batch of random encodings."""
    half = setting["precision"] == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    backbone = real(setting["base"], dtype)
    student = Student(
        base=backbone,
        conditioning=setting["conditioning"],
        lora=None if setting["lora"] is None else {"rank": setting["lora"]},
        train=setting["train"],
        gradient_checkpointing=setting["checkpointing"],
        dtype="bfloat16" if half else "float32",
    )
    config = student.denoiser.config
    count, length = setting["batch"], setting["text_tokens"]

    def text(number):
        return Text(
            tokens=torch.randn(number, length, config.joint_attention_dim, dtype=dtype),
            pooled=torch.randn(number, config.pooled_projection_dim, dtype=dtype),
        )

    backbone.encode_text = lambda captions: text(len(captions))
    shapes = setting["shapes"]
    reference = {name: torch.randn(count, *shape, dtype=dtype) for name, shape in shapes["reference"].items()}
    batch = Batch(
        ids=[str(i) for i in range(count)],
        reference=Reference(**reference),
        target=torch.randn(count, *shapes["target"], dtype=dtype),
        text=text(count),
    )
    strategy = setting.get("strategy", "auto")
    trainer = lightning.Trainer(
        max_steps=STEPS, precision="bf16-mixed" if half else "32-true", accelerator="cpu", devices=1,
        strategy="ddp" if strategy == "ddp" else "auto", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, barebones=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(student, torch.utils.data.DataLoader([batch] * STEPS, batch_size=None))


def real(base, dtype) -> FluxBackbone:
    """Random weights in the shapes of a configuration."""
    backbone = skeleton(base, parts=("denoiser",))
    backbone.to(dtype).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.normal_(std=0.02)
    return backbone


if __name__ == "__main__":
    for chosen in json.loads(sys.argv[1]):  # each in a process of its own, which has imported everything
        child = os.fork()
        if child == 0:
            main(chosen)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{chosen} ended with status {status}")
