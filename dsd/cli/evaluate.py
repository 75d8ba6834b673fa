"""Judging a student of the embedded model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsd.evaluation import Evaluation
    from dsd.pipeline import DSDPipeline


def evaluate(
    model: str,
    out: str,
    teacher: str | Mapping[str, Any] | None = "diffusers",
    references: int = 64,
    scenes: int = 4,
    num_inference_steps: int = 28,
    guidance_scale: float = 3.5,
    image_guidance: float = 1.0,
    text_guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    device: str | None = None,
    progress: bool = True,
) -> str:
    """Judge a student of the small world on characters that nothing was trained on.

    Writes `evaluation.html` and `evaluation.json`: identity by measurement and by the encoder, share of right
    scenes, and their product, beside the teacher prompted with text alone, the reference copied, the
    untrained student and the true pictures.

    Args:
        model: the folder of a student.
        out: the folder for the results.
        teacher: who draws from text alone: a name or a spec; null to leave that out.
        references: how many characters.
        scenes: how many new scenes of each.
        num_inference_steps: steps of the sampler.
        guidance_scale: what a guidance-distilled denoiser is told.
        image_guidance: above 1, the reference is followed more closely.
        text_guidance: above 1, the prompt is followed more closely.
        seed: of the characters and of the noise.
        batch_size: pictures drawn at once.
        device: by default a GPU if there is one.
        progress: show progress bars on stderr.

    Raises:
        FileNotFoundError: if there is no such model.
        OSError: if `out` cannot be written.
        ValueError: if a number is out of range.
    """
    import torch

    from dsd import DSDPipeline, teachers
    from dsd.data.atomic import make_folder
    from dsd.evaluation import sections, small_world, write_page

    folder = Path(out).expanduser()
    make_folder(folder)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cases = small_world.held_out(references, scenes, seed)
    pipe = DSDPipeline.from_pretrained(model).to(where)
    sampling = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "image_guidance": image_guidance,
        "text_guidance": text_guidance,
    }

    def bar(name: str) -> str | None:
        return name if progress else None

    answers: dict[str, small_world.Answers] = {}
    for name, drawer in {"student": pipe, "untrained": _untrained(model).to(where)}.items():
        answers[name] = small_world.student_answers(
            cases, drawer, seed=seed, batch_size=batch_size, progress=bar(name), **sampling
        )
    if teacher is not None:
        artist = teachers.create(teacher)
        answers["text_only"] = small_world.text_only_answers(
            cases, artist, seed=seed, progress=bar("text only")
        )
    result = small_world.evaluate_methods(cases, answers, progress=bar("measure"), seed=seed)

    content = {
        "model": model,
        "seed": seed,
        "sampling": sampling,
        "methods": {name: scores.to_json() for name, scores in result.methods.items()},
        "gap_closed": result.gap_closed,
        "gap_closed_interval": result.gap_interval,
    }
    (folder / "evaluation.json").write_text(json.dumps(content, indent=1) + "\n")
    parts = [sections.gallery(cases, answers["student"], result), sections.methods(result, cases, answers)]
    page = write_page(folder / "evaluation.html", f"The student {Path(model).name}", parts)
    return f"{_table(result)}\n{page}"


def _untrained(model: str) -> "DSDPipeline":
    """The student that `model` was before its training."""
    from dsd import DSDPipeline, Student
    from dsd.export import CARD

    card_path = Path(model).expanduser() / CARD
    if not card_path.is_file():
        raise FileNotFoundError(
            f"{model} has no {CARD}, which says what it was trained from. Save it with save_pretrained."
        )
    card = json.loads(card_path.read_text())
    student = Student(base=card["base"], conditioning=card["conditioning"])
    student.backbone.load("vae", "text")
    size = card.get("frame_size")
    return DSDPipeline(student.backbone, student.conditioning, None if size is None else (size[0], size[1]))


def _table(result: "Evaluation") -> str:
    names = ("identity", "identity_encoder", "scene", "product")
    lines = [f"{'':12}" + "".join(f"{name:>18}" for name in names)]
    for method, scores in result.methods.items():
        lines.append(f"{method:12}" + "".join(f"{getattr(scores, name):18.3f}" for name in names))
    return "\n".join(lines)
