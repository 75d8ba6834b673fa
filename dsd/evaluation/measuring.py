"""Measures many small-world pictures; it takes some 35 ms for each, so several processes share them."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain

from PIL import Image
from tqdm import tqdm

from dsd.mini.measure import Measurement, measure
from dsd.types import image_digest

_CHUNK = 16


def measure_all(
    images: Sequence[Image.Image], *, workers: int = 2, progress: str | None = None
) -> list[Measurement]:
    """What geometry and colour say of each picture, in order. Equal pictures are measured once.

    Args:
        images: 64 x 64 px panels.
        workers: processes to share the work. They are started afresh ("spawn"), so a script that calls this
            needs the usual `if __name__ == "__main__":`. With 1 it is done in this process.
        progress: name of a progress bar on stderr; None for none.

    Raises:
        ValueError: if a picture has another size, or `workers` is below 1.
        RuntimeError: if the processes cannot start or die.
    """
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1; got {workers}.")
    unique: dict[str, Image.Image] = {}
    digests = [image_digest(image) for image in images]
    for digest, image in zip(digests, images, strict=True):
        unique.setdefault(digest, image)
    with tqdm(total=len(unique), desc=progress, unit="picture", disable=progress is None) as bar:
        measured = []
        for measurement in _measured(list(unique.values()), workers):
            measured.append(measurement)
            bar.update()
    found = dict(zip(unique, measured, strict=True))
    return [found[digest] for digest in digests]


def measure_chunk(images: list[Image.Image]) -> list[Measurement]:
    """The work of one process at a time."""
    return [measure(image) for image in images]


def _measured(images: list[Image.Image], workers: int) -> Iterator[Measurement]:
    if workers == 1 or len(images) <= _CHUNK:
        yield from map(measure, images)
        return
    chunks = [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]
    # Not "fork": torch's threads do not survive it.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from chain.from_iterable(pool.map(measure_chunk, chunks))
        except BrokenProcessPool as error:
            raise RuntimeError(
                "The processes that measure pictures died. A script that starts them needs "
                '`if __name__ == "__main__":` around its calls; or pass workers=1 to do without them.'
            ) from error
