"""Ctrl-C and SIGTERM during a training."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import lightning

# The exit status of a program that such a signal ended.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


@contextmanager
def interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Ctrl-C stays Ctrl-C: Lightning makes an exit of it and is deaf to it from then on, or, in some
    versions, returns as if all were done. Whoever listened to SIGTERM before does so again.

    Raises:
        KeyboardInterrupt: if the user stopped the training.
        SystemExit: if SIGTERM did, or in a process that is not the first of several.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as error:
        if trainer.interrupted and error.code not in (0, TERMINATED):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    if trainer.interrupted:
        raise KeyboardInterrupt
