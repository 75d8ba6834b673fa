"""Without what other packages say on the terminal while they load models and train."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the loading bars of diffusers and transformers, which come and go within a stage's own bar."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = [
        logger for logger in (diffusers_logging, transformers_logging) if logger.is_progress_bar_enabled()
    ]
    for logger in loggers:
        logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch_dtype. is deprecated", FutureWarning)
            yield
    finally:
        for logger in loggers:
            logger.enable_progress_bar()


@contextmanager
def quiet_training() -> Iterator[None]:
    """Without Lightning's own remarks: on devices, tips, and validation that is not wanted."""
    levels = {
        name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric", "lightning")
    }
    for name in levels:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # of autocast
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
