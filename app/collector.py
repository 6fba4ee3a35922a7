"""The garbage collector of a serving process: kept from walking what lives as long as the process.

A full collection holds the interpreter while it looks at every object there is: 240,000 before the first request, and
some 400,000 more with transformers. Measured while transformers is imported on the loader's thread of a service that
has served SASRec only, on two cores: the event loop stands still for up to 198 ms, all of it in three full
collections; with the collector paused, for 7 ms. So that import may come when the first language model comes, and a
service without one never pays for it, neither in seconds nor in memory.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """For imports beside the event loop. What they have made is never walked again; what was in cycles, never freed.

    Where nothing was imported, nothing is set aside: bundles come and go, and may have passed through here.
    """
    before, running = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()  # or the next collection, however young, would walk all that came meanwhile
        if running:
            gc.enable()


def set_aside_start_up() -> None:
    """Call once, when everything is imported and nobody is served: takes a tenth of a second."""
    gc.collect()
    gc.freeze()
