from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
FILE = REPOSITORY / "docker-compose.yml"
KEYS = {"NAISEKI_API_KEYS": "one", "NAISEKI_ADMIN_KEYS": "two", "GRAFANA_PASSWORD": "three"}
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]


def client() -> list[str]:
    """A Compose client; it needs no engine to check a file."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    pytest.skip("NOT CHECKED: no docker-compose here (Debian: apt install docker-compose)")


def config(tmp_path: Path, keys: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    # An .env of this checkout must not answer for a key that the test leaves out.
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in keys.items()))
    shutil.copy(FILE, tmp_path)
    path = f"{Path(client_path()).parent}:/usr/bin:/bin"
    command = [*client(), *arguments, "config"]
    return subprocess.run(command, cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=False)


def client_path() -> str:
    return shutil.which(client()[0]) or ""


def test_a_client_accepts_the_file(tmp_path: Path) -> None:
    checked = config(tmp_path, KEYS, "--profile", "train")
    assert checked.returncode == 0, checked.stderr
    assert set(yaml.safe_load(checked.stdout)["services"]) == set(SERVICES)


@pytest.mark.parametrize("missing", KEYS)
def test_a_missing_or_empty_key_is_refused_by_its_name(tmp_path: Path, missing: str) -> None:
    for keys in ({**KEYS, missing: ""}, {name: value for name, value in KEYS.items() if name != missing}):
        refused = config(tmp_path, keys)
        assert refused.returncode != 0
        assert f"set {missing} in .env" in refused.stderr


def test_the_parts() -> None:
    assert set(SERVICES) == {"app", "redis", "prometheus", "grafana", "train"}
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["train"]
    assert SERVICES["app"]["build"]["target"] == "serve"
    assert SERVICES["train"]["build"]["target"] == "train"


@pytest.mark.parametrize("name", ["app", "train"])
def test_our_own_containers_have_a_gpu_and_a_read_only_root(name: str) -> None:
    (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["tmpfs"] == ["/tmp"]
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert "cap_add" not in SERVICES[name]
    assert "user" not in SERVICES[name], "the image's, who is not root"
    assert {mount.split(":")[1] for mount in SERVICES[name]["volumes"]} == {"/data"}


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_gains_or_shares_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for power in ("privileged", "pid", "network_mode", "ipc", "devices", "cap_add"):
        assert power not in service
    mounted = [mount for mount in service["volumes"] if mount.startswith(("/", "."))]
    assert all(mount.startswith("./deploy/") and mount.endswith(":ro") for mount in mounted)
    published = [str(port) for port in service.get("ports", ())]
    assert name == "app" or all(port.startswith("127.0.0.1:") for port in published)
    assert name != "redis" or published == [], "histories are for the service alone"


def test_both_share_one_store() -> None:
    assert SERVICES["app"]["volumes"] == SERVICES["train"]["volumes"] == ["bundles:/data"]


def test_histories_are_durable_and_never_evicted() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options == {"--appendonly": "yes", "--appendfsync": "everysec", "--maxmemory-policy": "noeviction"}
    assert SERVICES["app"]["environment"]["NAISEKI_REDIS_URL"] == "redis://redis:6379/0"


def test_no_key_is_written_in_the_repository() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(KEYS) <= set(given)
    assert [given[name] for name in KEYS] == ["", "", ""]


def test_mounted_files_are_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ()) if mount.startswith("./")]
    assert len(mounts) == 3
    assert all((REPOSITORY / mount.split(":")[0]).is_dir() for mount in mounts)
