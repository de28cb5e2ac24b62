"""The files of deploy/ do what they say, outside systemd and Docker."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from backend_process import WAIT_S, serving
from deploy_files import (
    DEPLOY,
    HOME,
    ROOT,
    env_file,
    env_pairs,
    exec_start,
    ignored_by_default,
    read_dockerfile,
    unit_settings,
)

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
NAMES = {path.stem.removeprefix("condense-"): path for path in UNITS}
HEALTHCHECK = DEPLOY / "healthcheck.py"
TOLERABLE_EXPOSURE = 25
"""Tenths of systemd's own measure, 0 to 10, below which it says OK."""
BUILD_S = 1500

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def healthcheck(port):
    line = [sys.executable, str(HEALTHCHECK), str(port)]
    return subprocess.run(line, timeout=30, check=False).returncode


def port_of(server):
    return int(server.url.rsplit(":", 1)[1])


# systemd


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_no_fault_in_a_unit(unit, tmp_path):
    # systemd looks whether the program is there: stand-ins for the checkout's.
    for each in (*UNITS, DEPLOY / "systemd" / "condense.target"):
        text = each.read_text().replace(f"{HOME}/.venv/bin/python", sys.executable)
        (tmp_path / each.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # Faults of other units of this machine are not ours.
    ours = [line for line in done.stderr.splitlines() if "condense" in line]
    assert ours == []


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_calls_a_unit_hardened(unit):
    line = ["systemd-analyze", "security", "--offline=yes", f"--threshold={TOLERABLE_EXPOSURE}"]
    done = subprocess.run([*line, str(unit)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout.decode()[-500:]


def test_units_end_later_than_what_they_run_drains():
    for name, path in NAMES.items():
        service = unit_settings(path)["Service"]
        assert service["User"] == ["condense"]
        assert int(service["TimeoutStopSec"][0]) > (60 if name == "scoring" else 30)


def test_no_unit_that_loads_a_model_hides_the_gpu():
    hidden = {
        name for name, path in NAMES.items() if "PrivateDevices" in unit_settings(path)["Service"]
    }
    assert hidden == {"miner", "validator"}


@pytest.fixture
def checkout(monkeypatch):
    """Return a unit's words with this checkout in the place of the one it expects."""
    environ = env_file()

    def words(name):
        found = exec_start(NAMES[name], environ)
        return [word.replace(f"{HOME}/.venv/bin/python", sys.executable) for word in found]

    return words


@pytest.mark.parametrize("name", ["miner", "validator"])
def test_a_nodes_unit_is_a_command_line_that_the_node_takes(checkout, name):
    environ = {k: v for k, v in env_file().items() if not k.endswith("_ARGS")}
    done = subprocess.run(
        [*checkout(name), "--print_config"], cwd=ROOT, env={**os.environ, **environ},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"netuid": 52' in done.stdout
    assert '"wallet.name": "my_' in done.stdout


def test_the_backends_unit_serves_and_its_health_can_be_checked(checkout):
    _, *words = checkout("backend")
    shown = [word if word != "pooled" else "echo" for word in words]
    place = shown.index("--port")
    del shown[place : place + 2]  # the test takes any free one
    with serving(command=shown, cwd=ROOT) as server:
        server.ready()
        assert healthcheck(port_of(server)) == 0
        assert server.condense("A text.").status_code == 200
        assert server.stop() == 0
        assert healthcheck(port_of(server)) == 1


def test_the_healthcheck_fails_while_a_backend_loads():
    with serving("--condenser", "backend_condensers:Slow", environment={"SLOW_LOAD_S": "60"}) as it:
        it.bound()
        assert it.get("/health/live").status_code == 200
        assert healthcheck(port_of(it)) == 1


def test_the_healthcheck_gives_up_on_a_server_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=lambda: silent.accept()[0].recv(1), daemon=True).start()
        assert healthcheck(silent.getsockname()[1]) == 1


# pm2: what its files say; test_pm2.py runs them


def pm2_apps(path, **environ):
    script = f"console.log(JSON.stringify(require('{path}').apps))"
    line = ["node", "-e", script]
    done = subprocess.run(
        line, env={**os.environ, **environ}, capture_output=True, timeout=60, check=True
    )
    return {app["name"].removeprefix("condense_"): app for app in json.loads(done.stdout)}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_pm2s_full_set_is_what_the_settings_file_says():
    path = DEPLOY / "ecosystem.all.config.js"
    apps = pm2_apps(path, **env_file())
    assert list(apps) == ["backend", "miner", "scoring", "validator"]
    for name, app in apps.items():
        assert app["cwd"] == str(ROOT)
        # The words that systemd runs too.
        assert app["args"] == exec_start(NAMES[name], env_file())[1:]
        assert app["kill_timeout"] > 1000 * (60 if name == "scoring" else 30)
    with_gateway = pm2_apps(path, CONDENSE_GATEWAY_ARGS=" --port  8100 ")
    assert with_gateway["gateway"]["args"][-3:] == ["gateway", "--port", "8100"]


# Docker


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_containers_have_no_more_rights_than_they_need(compose):
    for name, service in compose["services"].items():
        assert service["user"] not in ("root", "0", None), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    published = {name: s["ports"] for name, s in compose["services"].items() if "ports" in s}
    assert published == {"miner": ["8091:8091"], "gateway": ["127.0.0.1:8100:8100"]}


def test_containers_are_checked_on_the_port_that_they_listen_on(compose):
    for name in ("backend", "scoring", "gateway"):
        service = compose["services"][name]
        words = shlex.split(" ".join(service["command"]))
        assert words[words.index("--port") + 1] == service["healthcheck"]["test"][-1]
    for service in compose["services"].values():
        for other in service.get("depends_on", {}):
            assert "test" in compose["services"][other]["healthcheck"]


def test_variables_that_containers_are_given_reach_the_flags(compose):
    for name, flag in (("miner", "miner.backend_host"), ("validator", "score_backend.host")):
        service = compose["services"][name]
        done = subprocess.run(
            ["sh", "-c", service["command"][-1].replace("$$", "$") + " --print_config"],
            cwd=ROOT,
            env={**os.environ, **env_file(), **service["environment"],
                 "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert re.search(rf'{re.escape(flag)}": "(backend|scoring)"', done.stdout), done.stdout
        assert '"wallet.path": "/wallets"' in done.stdout


def test_the_image_runs_as_nobody_in_particular():
    image = read_dockerfile()
    assert image.of("USER") == ["10001:10001"]
    names = [step.name for step in image.steps]
    # Nothing is installed or written by the user that runs it.
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")


def test_everything_that_processes_import_reaches_the_build(compose):
    kept = ignored_by_default()
    assert [path for path in kept if not (ROOT / path).exists()] == []
    assert {"neural_condense_core", "neurons", "services", "deploy/healthcheck.py"} <= set(kept)
    assert not [path for path in kept if path.startswith((".", "tests"))]


def copy_sources(words, build, kept):
    *sources, target = words
    if sources != ["."]:
        for source in sources:
            shutil.copy(ROOT / source, build / target)
        return
    for path in kept:
        place = build / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            junk = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / path, place, ignore=junk, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / path, place)


def build_image(build, environ):
    """Carry out a Dockerfile's instructions in a folder that stands for its working directory."""
    for step in read_dockerfile().steps:
        if step.name == "ARG":
            name, _, value = step.text.partition("=")
            environ.setdefault(name, value)
        elif step.name == "ENV":
            pairs = env_pairs(step.text)
            environ |= {name: value.replace(HOME, str(build)) for name, value in pairs.items()}
        elif step.name == "COPY":
            copy_sources(step.text.split(), build, ignored_by_default())
        elif step.name == "RUN":
            done = subprocess.run(
                ["/bin/sh", "-c", step.text], cwd=build, env=environ,
                capture_output=True, text=True, timeout=BUILD_S, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{step.text}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(BUILD_S + 300)
def test_the_images_steps_make_a_backend_that_is_ready(tmp_path, real_home):
    build = tmp_path / "opt"
    build.mkdir()
    environ = {
        name: value for name, value in os.environ.items()
        if name in ("HOME", "LANG", "TMPDIR") or name.startswith("PIP_")
    }  # fmt: skip
    environ["PATH"] = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    build_image(build, environ)

    (command,) = read_dockerfile().of("CMD")[-1:]
    words = yaml.safe_load(command)
    assert words[:2] == ["condense", "serve"]
    words[words.index("pooled")] = "echo"
    words[words.index("0.0.0.0")] = "127.0.0.1"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words[words.index("8080")] = str(port)
    process = subprocess.Popen(words, cwd=build, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        threading.Timer(WAIT_S, process.kill).start()
        check = [str(build / ".venv/bin/python"), "deploy/healthcheck.py", str(port)]
        while subprocess.run(check, cwd=build, check=False).returncode != 0:
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
