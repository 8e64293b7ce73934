"""The files to deploy with. No container engine or cluster runs here: they are parsed, and what they claim about the
gateway is compared with it. The image's health check is run as it stands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kairos import __version__
from kairos.config.listeners import TLS_PORT
from kairos.config.load import judged, loads
from kairos.config.model import Server
from kairos.proxy.handlers.builtin import LIVE, READY
from kairos.supervisor.plan import CONTROL_DRAIN, DRAIN_GRACE
from tests.support.gateway import gateway, route
from tests.support.net import dead_port

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PORT = Server().port
INSTRUCTIONS = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "VOLUME",
    "WORKDIR",
}  # fmt: skip


def patience(server: Server) -> float:
    """Seconds from TERM to the last process's end."""
    return server.drain_delay + server.drain_timeout + DRAIN_GRACE + CONTROL_DRAIN


def manifests() -> dict[str, Any]:
    """The Kubernetes objects by kind."""
    return {
        document["kind"]: document for document in yaml.safe_load_all(DEPLOY.joinpath("kubernetes.yaml").read_text())
    }


# --- Dockerfile -----------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", ROOT.joinpath("Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, rest in pairs]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    assert [shlex.split(rest) for rest in of("RUN")]


def test_the_base_is_given_and_names_no_registry() -> None:
    assert instructions()[0] == ("ARG", "BASE=python:3.11-slim")
    assert [rest.split()[0] for rest in of("FROM")] == ["${BASE}", "${BASE}"]
    assert not re.search(r"\w\.\w+/", of("ARG")[0])


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in ROOT.joinpath(".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for rest in of("COPY") for source in rest.split()[:-1]}
    assert copied == kept
    assert all(ROOT.joinpath(source).exists() for source in copied)


def test_the_image_runs_as_a_user_that_the_other_files_know() -> None:
    (user,) = of("USER")
    context = manifests()["Deployment"]["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}" != "0:0"
    assert any(f"--uid {context['runAsUser']}" in rest for rest in of("RUN"))


def test_it_starts_the_gateway_where_it_says() -> None:
    assert of("ENTRYPOINT") == ['["kairos-gateway"]']
    assert of("EXPOSE") == [f"{PORT} {TLS_PORT}"]
    assert "KAIROS_CONFIG_PATH=/etc/kairos/config.json" in of("ENV")[0]


def test_the_health_check_works() -> None:
    (rest,) = of("HEALTHCHECK")
    command = json.loads(rest.partition("CMD ")[2])
    command[0] = sys.executable

    def healthy(port: int) -> bool:
        environment = {**os.environ, "KAIROS_PORT": str(port)}
        return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 0

    with gateway({"routers": [route("/", "http://127.0.0.1:1")]}) as g:
        assert healthy(g.port)
    assert not healthy(dead_port())


def test_the_locked_versions_are_found_as_the_image_finds_them() -> None:
    expression = next(rest for rest in of("RUN") if rest.startswith("sed "))
    command = expression.partition(" > ")[0]
    found = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {"uvloop", "msgspec", "cython", "pyjwt"} <= {line.partition("==")[0].partition("[")[0] for line in found}
    assert all(re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+", line) for line in found)


# --- systemd --------------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, str]:
    """The assignments of a unit file; the last of a name counts."""
    return dict(
        line.split("=", 1) for line in DEPLOY.joinpath(name).read_text().splitlines() if re.match(r"\w+=", line)
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("kairos.service", "kairos.socket"):
        text = DEPLOY.joinpath(name).read_text().replace("/usr/local/bin/kairos-gateway", "/bin/true")
        tmp_path.joinpath(name).write_text(text)
    paths = [str(tmp_path / "kairos.service"), str(tmp_path / "kairos.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_speaks_the_protocol_of_the_gateway() -> None:
    service = unit("kairos.service")
    assert service["Type"] in ("notify", "notify-reload")
    assert service["ExecReload"].endswith("-HUP $MAINPID")
    assert float(service["TimeoutStopSec"]) >= patience(Server())
    assert service["RestartPreventExitStatus"] == "2"
    assert unit("kairos.socket")["ListenStream"] == str(PORT)


# --- compose and Kubernetes -----------------------------------------------------------------------------------------


def test_compose() -> None:
    service = yaml.safe_load(DEPLOY.joinpath("compose.yaml").read_text())["services"]["gateway"]
    assert service["image"] == f"kairos-gateway:{__version__}"
    assert service["ports"] == [f"{PORT}:{PORT}"]
    mounted, target = service["volumes"][0].split(":")[:2]
    config = judged(loads(DEPLOY.joinpath(mounted).read_bytes(), "json", mounted)).config
    assert target == "/etc/kairos/config.json"
    assert float(service["stop_grace_period"].rstrip("s")) >= patience(config.server)
    assert service["read_only"]
    assert service["tmpfs"][0].startswith("/tmp:")


def test_kubernetes_has_a_config_that_loads_and_a_pod_that_waits_for_its_drain() -> None:
    (name, text), *_ = manifests()["ConfigMap"]["data"].items()
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = judged(loads(text.encode(), "yaml", name)).config
    assert {"name": "KAIROS_CONFIG_PATH", "value": f"/etc/kairos/{name}"} in container["env"]
    assert pod["terminationGracePeriodSeconds"] >= patience(config.server)
    assert not pod["enableServiceLinks"]  # KAIROS_PORT would be tcp://…
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_kubernetes_asks_the_gateway_what_it_answers() -> None:
    (container,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
    assert paths == {"startup": LIVE, "liveness": LIVE, "readiness": READY}
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests()["Service"]["spec"]["selector"] == labels
    assert manifests()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
