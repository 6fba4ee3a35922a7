"""Several processes that train together (`accelerate launch -m offline run ...`): who writes, and what all agree on."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

T = TypeVar("T")


def this_process() -> PartialState:
    """The only process, or one of those that `accelerate launch` started; the main one alone stages and publishes."""
    # Accelerator reads this flag by itself, PartialState does not: on a machine with a GPU they would disagree.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def measuring_device() -> str:
    """Where versions are measured, and base models read: where they would be served."""
    device = this_process().device
    return str(device) if device.type == "cuda" else "cpu"


def as_main_says(value: T) -> T:
    """The main process's value, in all processes: clocks and rounding differ, and a loop must end in all at once."""
    agreed: T = broadcast_object_list([value])[0]
    return agreed


def end_with_parent() -> None:
    """For a worker: ends with the process that started it, however that dies, and not hours later with its task."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
