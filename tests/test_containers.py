"""What ships to run the server elsewhere: an image without weights and root, a compose file, a
hardened unit."""

import json
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from cardiotune.errors import ConfigError
from test_cli import call

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy" / "cardiotune.service"
INSTRUCTIONS = {
    "ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD", "COMMENT",
}  # fmt: skip


@pytest.fixture(scope="module")
def dockerfile(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Instructions; the parser wants to write, so it gets a copy."""
    copy = tmp_path_factory.mktemp("docker") / "Dockerfile"
    shutil.copy(ROOT / "Dockerfile", copy)
    return [entry for entry in DockerfileParser(str(copy)).structure if entry["instruction"] != "COMMENT"]


@pytest.fixture(scope="module")
def stages(dockerfile: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Name -> its instructions, those of the stages it is made from first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in dockerfile:
        if entry["instruction"] == "FROM":
            parent, _, name = re.fullmatch(r"(\S+) (AS) (\S+)", entry["value"]).groups()  # type: ignore[union-attr]
            found[name] = list(found.get(parent, []))
            current = found[name]
        elif found:
            current.append(entry)
    return found


def last(stage: list[dict[str, Any]], instruction: str) -> str:
    return [entry["value"] for entry in stage if entry["instruction"] == instruction][-1]


def test_only_known_instructions_and_none_that_fetches_unseen(dockerfile: list[dict[str, Any]]) -> None:
    assert {entry["instruction"] for entry in dockerfile} <= INSTRUCTIONS, "ADD unpacks and downloads; use COPY"
    for entry in dockerfile:
        if entry["instruction"] == "RUN":
            assert not re.search(r"\b(curl|wget|sudo)\b", entry["value"])
            if "apt-get install" in entry["value"]:
                assert "--no-install-recommends" in entry["value"] and "rm -rf /var/lib/apt/lists" in entry["value"]
            if "pip install" in entry["value"]:
                assert entry["value"].count("pip install") == entry["value"].count("--constraint constraints.txt")


def test_the_base_image_is_named_exactly(dockerfile: list[dict[str, Any]], stages: dict[str, Any]) -> None:
    (base,) = (entry["value"] for entry in dockerfile if entry["value"].startswith("PYTHON="))
    assert re.fullmatch(r"PYTHON=python:3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
    parents = {entry["value"].split()[0] for entry in dockerfile if entry["instruction"] == "FROM"}
    assert parents - set(stages) == {"${PYTHON}"}


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_image_runs_as_nobody_special(stages: dict[str, list[dict[str, Any]]], name: str) -> None:
    stage = stages[name]
    user, group = last(stage, "USER").split(":")
    assert int(user) >= 10000 and int(group) >= 10000
    after = [entry["instruction"] for entry in stage][[entry["instruction"] for entry in stage].index("USER") :]
    assert "RUN" not in after
    assert last(stage, "STOPSIGNAL") == "SIGTERM"
    assert "/healthz" in last(stage, "HEALTHCHECK")


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_no_weights_are_copied(stages: dict[str, list[dict[str, Any]]], name: str) -> None:
    copied = [entry["value"] for stage in stages.values() for entry in stage if entry["instruction"] == "COPY"]
    own = {word for value in copied if "--from" not in value for word in value.split()[:-1]}
    assert own == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "configs", "src"}
    assert [entry["value"] for entry in stages[name] if entry["instruction"] == "COPY"] == [
        f"--from=build-{name} /opt/cardiotune /opt/cardiotune"
    ]
    assert "HF_HUB_OFFLINE=1" in " ".join(entry["value"] for entry in stages[name] if entry["instruction"] == "ENV")


def test_all_that_is_copied_exists_and_reaches_the_builder_alone() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*", "everything is left out that is not named"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "configs", "src"}
    assert all((ROOT / name).exists() for name in let_in)
    weights = ("*.safetensors", "*.gguf", "*.bin", "*.pt")
    tracked = subprocess.run(["git", "ls-files", *let_in], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [file for file in tracked.split() if any(fnmatch(file, kind) for kind in weights)]


def test_the_images_command_is_one_that_the_program_takes(
    stages: dict[str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(last(stages["cpu"], "ENTRYPOINT")) == ["cardiotune"]
    command = json.loads(last(stages["cpu"], "CMD"))
    assert command[command.index("--port") + 1] == last(stages["cpu"], "EXPOSE")
    done = call(*command)  # there is no such file of keys here
    assert done.exit_code == ConfigError.exit_code and "/run/secrets/api_keys: cannot be read" in done.output
    keys = tmp_path / "api_keys"
    keys.write_text("k" * 32)
    here = [str(keys) if word == "/run/secrets/api_keys" else "0" if word == "8000" else word for word in command]
    done = call(*here, "--host", "127.0.0.1")
    assert done.exit_code == ConfigError.exit_code and "not a run folder" in done.output


def test_the_compose_file_keeps_the_server_small_and_unprivileged() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert set(compose) == {"x-server", "services", "secrets"}
    for name, service in compose["services"].items():
        assert service["build"] == {"context": ".", "target": name}
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"] and "privileged" not in service
        assert all(mount["read_only"] for mount in service["volumes"]), "weights are mounted, and not to be written"
        assert {mount["target"] for mount in service["volumes"]} == {"/model", "/weights"}
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["mem_limit"] and service["pids_limit"]
        assert service["secrets"] == ["api_keys"] and "environment" not in service, "no key in the environment"
        assert float(service["stop_grace_period"].removesuffix("s")) > 60
    assert compose["services"]["cuda"]["profiles"] == ["gpu"]
    mounts = compose["services"]["cpu"]["volumes"] + list(compose["secrets"].values())
    assert all(re.search(r"\$\{\w+:\?", mount.get("source", mount.get("file"))) for mount in mounts), (
        "asked for, not guessed"
    )


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """Setting -> its values, of all sections."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_is_hardened(unit: dict[str, list[str]]) -> None:
    for name in ("NoNewPrivileges", "DynamicUser", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictSUIDSGID"):
        assert unit[name] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"] and unit["CapabilityBoundingSet"] == [""]
    (start,) = unit["ExecStart"]
    assert "--api-key-file ${CREDENTIALS_DIRECTORY}/api_keys" in start, "no key on the command line, which all can read"
    assert float(unit["TimeoutStopSec"][0]) > 60
    words = start.split()
    options = {word for word in words if word.startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", call("serve", "--help").output))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here to ask")
def test_systemd_reads_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    judged = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60)
    assert judged.returncode == 0 and "cardiotune" not in judged.stderr, judged.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", copy],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-400:]
