"""The miner node by its command line, on a development chain, with a backend of anybody's."""

import json
import os
import shutil
import subprocess
import sys
import time

import httpx
import pytest
from miner_parts import (
    HIDDEN,
    MODEL,
    PATH,
    STRANGER,
    VALIDATOR,
    LoopbackBackend,
    asked,
    signed,
    write_wallet,
)
from miner_process import NETUID, ROOT, SPECIFIED, TIERS, WAIT_S, Miner, is_free, seat

from neural_condense_core.constants import TARGET_MODEL
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors
from neural_condense_core.wire.signing import nonce_of, verify_answer

MARKER = "zebra-in-a-context"


class Receiver:
    """What ``signed`` needs to know of a miner."""

    def __init__(self, hotkey):
        self.ss58_address = hotkey


@pytest.fixture
def hotkey(tmp_path):
    (tmp_path / "tiers.toml").write_text(TIERS.format(model=MODEL))
    return write_wallet(tmp_path / ".bittensor" / "wallets")


@pytest.fixture
def chain(tmp_path, hotkey):
    made = seat(tmp_path, miner=hotkey, validator=VALIDATOR.ss58_address)
    yield made
    made.close()


@pytest.fixture
def backend():
    # The specification's own port where nobody has it.
    with LoopbackBackend(8080 if is_free(8080) else 0) as made:
        yield made


def ask(miner, hotkey, body, key=VALIDATOR):
    headers = signed(body, key=key, receiver=Receiver(hotkey))
    url = miner.url + PATH
    return httpx.post(url, content=body, headers=headers, trust_env=False, timeout=30), headers


def endpoint_of(chain, hotkey):
    return next(found.endpoint for found in chain.show(NETUID).seats if found.hotkey == hotkey)


def test_the_line_of_the_specification_serves_publishes_and_drains(
    tmp_path, hotkey, chain, backend
):
    with Miner(tmp_path, backend.port) as miner:
        miner.serving()
        miner.until(lambda: endpoint_of(chain, hotkey), "the endpoint on the chain")
        assert endpoint_of(chain, hotkey) == f"127.0.0.1:{miner.port}"

        answer, headers = ask(miner, hotkey, asked(f"{MARKER}, and more of it"))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/vnd.safetensors"
        verify_answer(
            answer.headers,
            answer.content,
            target=PATH,
            nonce_ns=nonce_of(headers),
            self_hotkey=VALIDATOR.ss58_address,
            peer_hotkey=hotkey,
        )
        found = from_safetensors(answer.content, Limits(10**6, 32, HIDDEN), target_model=MODEL)
        assert found.n_condensed_tokens >= 1

        for body, key, status in [
            (asked(MARKER), STRANGER, 403),
            (asked(MARKER, tier="research"), VALIDATOR, 422),
            (asked(MARKER * 100), VALIDATOR, 413),
        ]:
            refused, _ = ask(miner, hotkey, body, key)
            assert refused.status_code == status
            assert MARKER not in refused.text
        again = httpx.post(
            miner.url + PATH, content=asked(f"{MARKER}, and more of it"), headers=headers
        )
        assert again.status_code == 401
        metadata = httpx.get(f"{miner.url}/v1/metadata").json()
        assert (metadata["hotkey"], metadata["tier"]) == (hotkey, "my-tier")
        assert miner.stop() == 0
    assert "Traceback" not in miner.log
    assert MARKER not in miner.log


@pytest.mark.slow
def test_an_outage_of_the_chain_is_survived_and_a_restart_publishes_nothing_anew(
    tmp_path, hotkey, chain, backend
):
    with Miner(tmp_path, backend.port) as miner:
        miner.serving().says(r"published 127\.0\.0\.1")
        away = tmp_path / "away.sqlite"
        chain.close()
        for path in tmp_path.glob("devchain.sqlite*"):
            path.rename(path.with_name(path.name.replace("devchain", "away")))
        assert away.exists()
        miner.says("could not read the subnet")
        assert ask(miner, hotkey, asked("a text"))[0].status_code == 200
        for path in tmp_path.glob("away.sqlite*"):
            path.rename(path.with_name(path.name.replace("away", "devchain")))
        assert miner.stop() == 0
    port = str(miner.port)
    with Miner(tmp_path, backend.port, CONDENSE_AXON_PORT=port) as second:
        second.url = miner.url
        second.serving()
        time.sleep(3)
        assert second.stop() == 0
    assert "published" not in second.log


def test_a_request_in_hand_is_answered_before_the_end(tmp_path, hotkey, chain):
    with LoopbackBackend(delay_s=0.3) as backend, Miner(tmp_path, backend.port) as miner:
        miner.serving()
        backend.delay_s = 2.0
        body = asked("a text that takes its time")
        headers = signed(body, receiver=Receiver(hotkey))
        before = len(backend.contexts)
        sender = (
            "import sys, json, httpx; "
            "d = json.load(sys.stdin); "
            "print(httpx.post(d['url'], content=d['body'], headers=d['headers'],"
            " timeout=30, trust_env=False).status_code)"
        )
        client = subprocess.Popen(
            [sys.executable, "-c", sender], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        client.stdin.write(
            json.dumps({"url": miner.url + PATH, "body": body.decode(), "headers": headers})
        )
        client.stdin.close()
        miner.until(lambda: len(backend.contexts) > before, "the request")
        assert miner.stop() == 0
        assert client.stdout.read().strip() == "200"
        client.stdout.close()
        assert client.wait(WAIT_S) == 0


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    with Miner(tmp_path, 9, CONDENSE_TIERS="") as miner:
        assert miner.ended() == 2
    assert "3 things to mend" in miner.log
    for told in (
        "there is no tier 'my-tier'",
        "research: contexts up to 1,536 characters",
        "btcli wallet new-hotkey -w my_wallet -H my_key",
        "nothing answers at http://localhost:9",
        "icae_app.py --port 9 --devices 1 --workers_per_device 1",
    ):
        assert told in miner.log
    assert "Traceback" not in miner.log


def test_a_backend_of_another_model_is_told_the_line(tmp_path, hotkey):
    (tmp_path / "tiers.toml").write_text(TIERS.format(model="smollm2-135m-instruct"))
    with (
        LoopbackBackend(target=TARGET_MODEL) as backend,
        Miner(tmp_path, backend.port) as miner,
    ):
        assert miner.ended() == 2
    assert "1 thing to mend" in miner.log
    assert (
        f"python services/miner_backend/serving/icae_app.py --port {backend.port} --devices 1"
        in miner.log
    )
    assert "Traceback" not in miner.log


def test_an_unregistered_miner_is_told_the_command(tmp_path, hotkey, backend):
    seat(tmp_path, miner=None, validator=VALIDATOR.ss58_address).close()
    with Miner(tmp_path, backend.port) as miner:
        assert miner.ended() == 2
    assert "run, where its coldkey is: condense register --netuid 52" in miner.log
    assert "Traceback" not in miner.log


def test_no_development_chain_is_exit_3(tmp_path, hotkey, backend):
    with Miner(tmp_path, backend.port) as miner:
        assert miner.ended() == 3
    assert "condense dev init" in miner.log
    assert "Traceback" not in miner.log


@pytest.mark.slow
def test_a_chain_out_of_reach_is_exit_3_within_a_minute(tmp_path, hotkey, backend):
    began = time.monotonic()
    line = f"{SPECIFIED} --axon.external_ip 203.0.114.7 --axon.ip 127.0.0.1"
    override = {"CONDENSE_CHAIN_OVERRIDE": "ws://127.0.0.1:9"}
    with Miner(tmp_path, backend.port, line=line, **override) as miner:
        assert miner.ended() == 3
    assert time.monotonic() - began < 60
    assert "could not be reached" in miner.log
    assert "Traceback" not in miner.log


def test_unknown_flags_end_it_at_once(tmp_path):
    with Miner(tmp_path, 9, line=f"{SPECIFIED} --miner.backend_prot 8080") as miner:
        assert miner.ended() == 2
    assert miner.log == (
        "error: unknown flag --miner.backend_prot; did you mean '--miner.backend_port'?\n"
    )


def test_the_configuration_can_be_shown(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "neurons.miner", "--netuid", "52", "--print-config"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert '"miner.backend_port": 8080' in done.stdout


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_pm2_finds_the_miner_in_what_follows_the_dashes():
    program = (
        "process.argv.push('start', '--name', 'condense_miner', '--', 'python', '-m',"
        " 'neurons.miner', '--netuid', '52', '--miner.tier', 'my tier');"
        "console.log(JSON.stringify(require('./ecosystem.config.js')))"
    )
    done = subprocess.run(
        ["node", "-e", program],
        cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=True,
    )  # fmt: skip
    (app,) = json.loads(done.stdout)["apps"]
    assert app["name"] == "condense_miner"
    assert app["script"] == "python"
    assert app["args"] == ["-m", "neurons.miner", "--netuid", "52", "--miner.tier", "my tier"]
    assert app["interpreter"] == "none"
    assert app["cwd"] == str(ROOT)
