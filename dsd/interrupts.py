"""Ctrl-C during a training."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import lightning


@contextmanager
def interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Ctrl-C stays Ctrl-C: Lightning makes an exit of it and is deaf to it from then on, or, in some
    versions, returns as if all were done.

    Raises:
        KeyboardInterrupt: if the user stopped the training.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)
    if trainer.interrupted:
        raise KeyboardInterrupt
