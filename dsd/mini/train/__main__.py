"""`python -m dsd.mini.train PART --work DIR --minutes N`."""

import argparse
from pathlib import Path


def main() -> None:
    """Train one part of the small world, or go on where its checkpoint stopped."""
    parser = argparse.ArgumentParser(prog="python -m dsd.mini.train", description=__doc__)
    parser.add_argument("part", choices=["autoencoder"])
    parser.add_argument("--work", type=Path, default=Path("runs/mini-train"), help="folder of checkpoints and logs")
    parser.add_argument("--minutes", type=float, required=True, help="length of the whole training")
    arguments = parser.parse_args()
    from dsd.mini.train import autoencoder

    autoencoder.train(arguments.work, arguments.minutes)


if __name__ == "__main__":
    main()
