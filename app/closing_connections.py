"""How connections end without a request that is lost in one of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from app.service import Service

SO_ATTACH_FILTER = 26  # of Linux; Python has no name for it
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF: return 0 bytes of every packet


class ClosesWhileDraining:
    """While the service drains, every answer closes its connection, and the client's next request goes elsewhere.

    One that is kept open could be closed in the very moment in which its client sends something.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            service = getattr(self._app.state, "service", None)
            if message["type"] == "http.response.start" and isinstance(service, Service) and service.draining:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)


def leave_at_the_door(listener: int) -> None:
    """From now on nobody new is let in by this listening socket (a descriptor); who is waiting can still be accepted.

    The kernel resets connections that it has accepted and the program has not, when the program closes its listener.
    With a filter that drops every packet, newcomers stay outside, try again, and find the door closed. Where the system
    has no such filter, nothing happens.
    """
    program = ctypes.create_string_buffer(_DROP_ALL)
    filters = struct.pack("HP", 1, ctypes.addressof(program))
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(listener)) as door:
        door.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filters)
