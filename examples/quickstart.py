"""From prompts to a student that redraws a character anywhere. For the paper's model, change BASE alone."""

from pathlib import Path

import lightning

import dsd

BASE = "mini"  # "black-forest-labs/FLUX.1-dev"
OUT = Path("runs/example")


def main() -> None:
    """Run every stage; each goes on where it was, when the program is started again."""
    run = dsd.Run(OUT)
    dsd.write_prompts(run, writer="template", count=200, seed=0)
    dsd.draw_grids(run, teacher={"name": "diffusers", "model": BASE, "batch_size": 8})
    dsd.make_pairs(run)
    dsd.curate(run, curator="embedding")
    dsd.encode(run, backbone=BASE, conditioning="parallel")

    data = dsd.PairDataModule(run, batch_size=16, encoded=True)
    student = dsd.Student(base=BASE, conditioning="parallel", lora={"rank": 64}, lr=1e-3)
    lightning.Trainer(max_steps=400).fit(student, data)
    student.save_pretrained(OUT / "student")

    pipe = dsd.DSDPipeline.from_pretrained(OUT / "student")
    pair = next(run.accepted_pairs())
    answer = pipe(image=pair.reference, prompt=f"{pair.subject}, on a dark night", seed=0).images[0]
    pair.reference.save(OUT / "reference.png")
    answer.save(OUT / "answer.png")


if __name__ == "__main__":
    main()
