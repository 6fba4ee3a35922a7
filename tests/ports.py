"""Ports of this machine."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Nobody listens on it, for now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
