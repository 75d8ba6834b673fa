"""Rebuilds the small world's weights, part by part, in this order.

    python -m dsd.mini.train autoencoder --minutes 60
    python -m dsd.mini.train teacher --minutes 180
    python -m dsd.mini.train guidance --minutes 20
    python -m dsd.mini.train identity --minutes 15
    python -m dsd.mini.train export --to dsd/mini/weights

`unpack` begins a folder with the shipped weights instead of random ones. Each part goes on from its
checkpoint when it is started again, with the same or a longer --minutes.
"""

import argparse
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

from dsd import mini

PARTS = ("unpack", "autoencoder", "decoder", "teacher", "guidance", "identity", "export")


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        prog="python -m dsd.mini.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/mini-train"), help="folder of panels, checkpoints and logs"
    )
    parser.add_argument(
        "--minutes", type=float, help="length of the whole training, earlier runs of it counted in"
    )
    parser.add_argument("--rate", type=float, help="highest learning rate, in the place of the part's own")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin the curve of the learning rate anew at the checkpoint",
    )
    parser.add_argument("--to", type=Path, default=Path("dsd/mini/weights"), help="where `export` writes")
    arguments = parser.parse_args()
    if arguments.part == "unpack":
        unpack(arguments.work)
        return
    if arguments.part == "export":
        export(arguments.work, arguments.to)
        return
    if arguments.minutes is None:
        parser.error(f"{arguments.part} needs --minutes: how long to train in all")
    from dsd.mini.train import autoencoder, guidance, identity, teacher

    train: Any = {
        "autoencoder": autoencoder.train,
        "decoder": autoencoder.train_decoder,
        "teacher": teacher.train,
        "guidance": guidance.train,
        "identity": identity.train,
    }[arguments.part]
    options = {"rate": arguments.rate, "restart": arguments.restart or None}
    options = {name: value for name, value in options.items() if value is not None}
    for name in options.keys() - inspect.signature(train).parameters.keys():
        parser.error(f"{arguments.part} has no --{name}")
    train(arguments.work, arguments.minutes, **options)


def unpack(work: Path) -> None:
    """Put the shipped weights where the parts look for weights to begin at, in place of random ones."""
    source = mini.path()
    for name in ("autoencoder", "teacher"):
        if (work / name / "checkpoint.pt").exists():
            raise FileExistsError(f"{work / name} has a checkpoint already. Give another folder, by --work.")
    for part, target in (("vae", "autoencoder/vae"), (".", "teacher/begin")):
        shutil.copytree(source / part, work / target, dirs_exist_ok=True)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(source / name, work / "tokenizers" / name, dirs_exist_ok=True)


def export(work: Path, folder: Path) -> None:
    """Write the float16 weights that the package ships, of the parts that were trained in `work`."""
    from dsd.mini.train import identity, teacher

    trained = [part for part in PARTS if (work / part / "checkpoint.pt").exists()]
    drawing = [part for part in ("guidance", "teacher") if part in trained]
    if drawing:
        teacher.export(work, folder / "flux", drawing[0])
    elif {"decoder", "autoencoder"} & {*trained}:
        teacher.load_vae(work).half().save_pretrained(folder / "flux" / "vae")
    if "identity" in trained:
        identity.export(work, folder / "identity")
    if not trained:
        raise FileNotFoundError(f"{work} holds no checkpoint of {', '.join(PARTS)}: nothing to export.")
    for path in folder.glob("flux/**/*.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:  # diffusers writes down where it loaded from
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
