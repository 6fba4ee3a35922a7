from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.settings import Settings, SettingsRefused


def test_defaults_bind_loopback_without_keys() -> None:
    settings = Settings.read({})
    assert (settings.host, settings.port, settings.open) == ("127.0.0.1", 8000, True)
    assert not settings.without_histories


def test_the_environment_is_read() -> None:
    settings = Settings.read(
        {
            "NAISEKI_STORE": "/somewhere",
            "NAISEKI_PORT": "9",
            "NAISEKI_API_KEYS": "one, two",
            "NAISEKI_ADMIN_KEYS": "three",
            "NAISEKI_REDIS_URL": "none",
            "NAISEKI_KEEP_PREVIOUS": "false",
            "NAISEKI_DEVICE": "  ",
            "PATH": "x",
        }
    )
    assert settings.store == Path("/somewhere")
    assert settings.api_keys == ("one", "two")
    assert settings.port == 9
    assert settings.without_histories
    assert not settings.keep_previous
    assert settings.device == "auto"


def test_how_versions_change_places() -> None:
    assert Settings().swap == "availability-preserving"
    given = {"SWAP": "resource-preserving", "MODELS_KEPT": "0", "MEMORY_MARGIN": "0", "SHADOW_SHARE": "1"}
    settings = Settings.read({f"NAISEKI_{name}": value for name, value in given.items()})
    assert (settings.swap, settings.models_kept) == ("resource-preserving", 0)
    assert (settings.memory_margin, settings.shadow_share) == (0.0, 1.0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_no_keys_and_an_open_door_is_refused(host: str) -> None:
    with pytest.raises(SettingsRefused, match="NAISEKI_API_KEYS"):
        Settings.read({"NAISEKI_HOST": host})
    assert Settings.read({"NAISEKI_HOST": host, "NAISEKI_ADMIN_KEYS": "k"}).host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings.read({"NAISEKI_HOST": host}).open


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HANG_SECONDS", "0"),
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("DEVICE", "tpu"),
        ("THREADS", "0"),
        ("POLL_SECONDS", "nan"),
        ("SWAP", "quickly"),
        ("MODELS_KEPT", "-1"),
        ("MEMORY_MARGIN", "inf"),
        ("SHADOW_SHARE", "1.5"),
        ("API_KEYS", "good sha256:secret"),
        ("ADMIN_KEYS", "sha256:"),
        ("METRICS_KEY", "sha256:secret"),
        ("RATE_PER_SECOND", "-1"),
        ("RATE_PER_SECOND", "inf"),
        ("CLIENT_SECONDS", "0"),
        ("CONNECTIONS", "0"),
        ("HEAD_BYTES", "10"),
        ("CLICK_WINDOW", "0"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://:secret@localhost:port/0"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsRefused, match=f"NAISEKI_{name}") as refused:
        Settings.read({f"NAISEKI_{name}": value})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["none", "None", "redis://:secret@localhost:6379/0", "rediss://h", "unix:///a/b.sock"])
def test_addresses_of_redis(url: str) -> None:
    settings = Settings.read({"NAISEKI_REDIS_URL": url})
    assert settings.redis_url == url
    assert settings.without_histories == (url.lower() == "none")
    assert "secret" not in repr(settings)


def test_a_misspelt_variable_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Settings.read({"NAISEKI_PROT": "8001"})
    assert "NAISEKI_PROT" in caplog.text


def test_a_variable_of_the_pipeline_is_no_misspelling(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Settings.read({"NAISEKI_CACHE": "/data/cache", "NAISEKI_BEAUTY": "beauty"})
    assert not caplog.records


def test_keys_do_not_show() -> None:
    settings = Settings.read({"NAISEKI_API_KEYS": "geheim", "NAISEKI_REDIS_URL": "redis://:geheim@host"})
    assert "geheim" not in repr(settings)
