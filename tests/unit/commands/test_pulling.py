"""``condense models pull``: what is fetched, what is refused, and that nothing is half done."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from neural_condense_core.commands import hub, pulling
from neural_condense_core.commands.hub import HubSource, Listed, LocalSource, find_source
from neural_condense_core.condensers import installed
from neural_condense_core.condensers.checkpoints import (
    CheckpointConfig,
    load_condenser,
    read_config,
    resolve,
    write_config,
)
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.errors import (
    CheckpointError,
    ConfigError,
    FetchError,
    UnknownNameError,
)

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "icae_v2"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "condensers"


def pull(source, **options):
    return pulling.install(pulling.plan(pulling.Request(str(source), **options)))


def write_own(folder, target="some-model"):
    folder.mkdir()
    save_file({"a": np.zeros(3, np.float32)}, folder / "condenser.safetensors")
    config = CheckpointConfig("trained", "pooled", target, 8, (4,), {}, "MIT")
    write_config(folder, config)
    (folder / "README.md").write_text("card", encoding="utf-8")
    return folder


class FakeHub:
    """A source whose files are in memory."""

    name = "owner/condenser"
    revision = "c" * 40

    def __init__(self, bodies, stated=None):
        self.bodies = bodies
        self.stated = stated or {}
        self.fetched = []

    def files(self):
        return [
            Listed(path, len(body), **self.stated.get(path, {}))
            for path, body in self.bodies.items()
        ]

    def fetch(self, listed, folder):
        self.fetched.append(listed.path)
        path = folder / listed.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.bodies[listed.path])
        return path


def own_bodies(tmp_path):
    folder = write_own(tmp_path / "own")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_of_this_project_is_found_by_its_name_afterwards(tmp_path, cache):
    folder = pull(write_own(tmp_path / "mine"))
    assert folder == cache / "mine"
    assert resolve("mine") == (PooledCondenser, folder)
    assert read_config(folder).name == "mine"
    record = installed.read_record(folder)
    for name in ("condenser.safetensors", "README.md", "config.json"):
        assert record.files[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert record.sizes[name] == (folder / name).stat().st_size
    assert record.source == str(tmp_path / "mine")
    installed.check("mine")


def test_an_installed_folder_can_be_pulled_by_others(tmp_path, tiny_llama):
    from published_checkpoints import write_arc_encoder

    write_arc_encoder(tmp_path / "raw")
    first = pull(tmp_path / "raw", name="one", target_model=tiny_llama)
    pull(first, name="two")
    ids = [[5, 6, 7]]
    (one,), (two,) = (load_condenser(n, dtype="float32").condense(ids, 4) for n in ("one", "two"))
    np.testing.assert_array_equal(one.embeds, two.embeds)
    assert two.checkpoint == "two"


def test_a_published_icae_file_is_recognised_by_what_it_holds():
    pull(GOLDEN / "icae.safetensors", name="theirs", target_model=str(GOLDEN / "base"))
    condenser = load_condenser("theirs", dtype="float32")
    direct = load_condenser(str(GOLDEN / "icae.safetensors"), str(GOLDEN / "base"), dtype="float32")
    (found,), (expected,) = (c.condense([[1, 40, 41]], 4) for c in (condenser, direct))
    np.testing.assert_array_equal(found.embeds, expected.embeds)
    assert found.checkpoint == "theirs"


def test_stated_hashes_are_compared_and_what_is_no_condenser_s_is_left(tmp_path, cache):
    bodies = own_bodies(tmp_path) | {
        "modeling.py": b"import os", "optimizer.pt": b"x", ".gitattributes": b"x",
        "a/../b.json": b"{}",
    }  # fmt: skip
    weights, card = bodies["condenser.safetensors"], bodies["README.md"]
    stated = {
        "condenser.safetensors": {"sha256": hashlib.sha256(weights).hexdigest()},
        "README.md": {
            "git_sha1": hashlib.sha1(b"blob 4\0" + card, usedforsecurity=False).hexdigest()
        },
    }
    source = FakeHub(bodies, stated)
    found = pulling.plan(pulling.Request("owner/condenser"), find=lambda spec: source)
    assert source.fetched == [], "a plan fetches nothing"
    left = {"modeling.py", "optimizer.pt", ".gitattributes", "a/../b.json"}
    assert {listed.path for listed in found.skipped} == left
    folder = pulling.install(found)
    assert set(source.fetched) == {"condenser.safetensors", "README.md", "config.json"}
    assert installed.read_record(folder).revision == "c" * 40


@pytest.mark.parametrize("kind", ["sha256", "git_sha1"])
def test_another_file_than_was_stated_installs_nothing(tmp_path, cache, kind):
    source = FakeHub(own_bodies(tmp_path), {"condenser.safetensors": {kind: "0" * 40}})
    found = pulling.plan(pulling.Request("owner/condenser"), find=lambda spec: source)
    with pytest.raises(FetchError, match="not the file that was listed"):
        pulling.install(found)
    assert list(cache.iterdir()) == []


def test_a_file_of_another_size_installs_nothing(tmp_path, cache):
    source = FakeHub(own_bodies(tmp_path))
    found = pulling.plan(pulling.Request("owner/condenser"), find=lambda spec: source)
    source.bodies["condenser.safetensors"] += b"more"
    with pytest.raises(FetchError, match="were listed"):
        pulling.install(found)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pkl", ".ckpt"])
def test_pickles_are_refused_even_where_they_are_all_there_is(tmp_path, cache, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ConfigError, match="a pickle is a program"):
        pull(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"model{suffix}").write_bytes(b"x")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="pickles only"):
        pull(folder)
    with pytest.raises(ConfigError, match="never fetched"):
        pull(folder, files=(f"model{suffix}",))
    assert not cache.exists()


def test_a_pickle_by_another_name_is_refused(tmp_path, cache):
    folder = write_own(tmp_path / "mine")
    (folder / "condenser.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="not safetensors"):
        pull(folder)
    assert list(cache.iterdir()) == []


def test_what_holds_no_condenser_installs_nothing(tmp_path, cache):
    folder = tmp_path / "other"
    folder.mkdir()
    save_file({"a": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no condenser that can be loaded"):
        pull(folder)
    assert list(cache.iterdir()) == []


def test_a_limit_on_size_is_kept_before_anything_is_fetched(tmp_path):
    source = FakeHub(own_bodies(tmp_path))
    request = pulling.Request("owner/condenser", max_gigabytes=1e-9)
    with pytest.raises(ConfigError, match="--max_gb"):
        pulling.plan(request, find=lambda spec: source)


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    source = FakeHub(own_bodies(tmp_path))
    found = pulling.plan(pulling.Request("owner/condenser"), find=lambda spec: source)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match="are needed"):
        pulling.install(found)
    assert source.fetched == []


def test_too_many_files_are_refused(tmp_path):
    bodies = own_bodies(tmp_path) | {f"{i}.json": b"{}" for i in range(pulling.MAX_FILES)}
    with pytest.raises(ConfigError, match="at most"):
        pulling.plan(pulling.Request("owner/condenser"), find=lambda spec: FakeHub(bodies))


def test_links_that_lead_out_of_a_folder_are_not_followed(tmp_path):
    folder = write_own(tmp_path / "mine")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    assert "link.json" not in {listed.path for listed in LocalSource(folder).files()}


@pytest.mark.parametrize(
    ("name", "said"),
    [("pooled", "name of this"), ("..", "cannot be"), ("a/b", "cannot be"), ("a b", "cannot be")],
)
def test_a_name_that_is_taken_or_malformed_is_refused(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        pull(write_own(tmp_path / "mine"), name=name)


def test_a_second_pull_of_a_name_needs_to_be_told_to_replace(tmp_path):
    folder = write_own(tmp_path / "mine")
    pull(folder)
    with pytest.raises(ConfigError, match="pulled before"):
        pull(folder)
    (folder / "README.md").write_text("newer", encoding="utf-8")
    pull(folder, replace=True)
    assert (installed.installed_folder("mine") / "README.md").read_text() == "newer"


def test_a_changed_file_is_noticed(tmp_path):
    folder = pull(write_own(tmp_path / "mine"))
    (folder / "README.md").write_text("changed", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not what was fetched"):
        installed.check("mine")
    (folder / "README.md").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        installed.check("mine")


def test_removing_forgets_the_name(tmp_path):
    pull(write_own(tmp_path / "mine"))
    installed.remove("mine")
    assert installed.installed_names() == []
    with pytest.raises(UnknownNameError):
        resolve("mine")
    with pytest.raises(UnknownNameError, match="Pulled: none"):
        installed.remove("pooled-fast")


@pytest.mark.parametrize("text", ["[]", "{}", '{"source": 1}', "no json"])
def test_a_damaged_record_is_an_error_of_ours(tmp_path, text):
    folder = pull(write_own(tmp_path / "mine"))
    (folder / "pulled.json").write_text(text)
    with pytest.raises(CheckpointError, match="no record"):
        installed.read_record(folder)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name@main", ("owner/name", "main")),
        ("owner/na.me-2@refs/pr/1", ("owner/na.me-2", "refs/pr/1")),
        ("name", ("name", None)),
    ],
)
def test_hub_names_and_revisions(spec, expected):
    source = find_source(spec)
    assert isinstance(source, HubSource)
    assert (source.name, source._asked) == expected


@pytest.mark.parametrize("spec", ["a/b/c", "/nowhere/at/all", "owner/name@", "", "../x", "a b"])
def test_what_is_neither_path_nor_name_is_refused(spec):
    with pytest.raises(ConfigError, match="neither a path"):
        find_source(spec if spec else " ")


def test_a_known_repository_brings_its_target_model_and_licence(tmp_path):
    from published_checkpoints import write_arc_encoder

    write_arc_encoder(tmp_path / "raw", out_dim=64)
    paths = (tmp_path / "raw").iterdir()
    source = FakeHub({path.name: path.read_bytes() for path in paths})
    source.name = "kyutai/ARC8_Encoder_Llama"
    found = pulling.plan(pulling.Request(source.name), find=lambda spec: source)
    folder = pulling.install(found)
    config = read_config(folder)
    assert config.target_model == "meta-llama/Llama-3.1-8B"
    assert config.licence.startswith("CC-BY-4.0")


def test_where_the_hub_cannot_be_reached_is_an_error_of_ours():
    with pytest.raises(FetchError, match="cannot list 'owner/name'"):
        HubSource("owner/name", None).files()  # tests are offline
    source = HubSource("owner/name", None)
    source.revision = "c" * 40
    with pytest.raises(FetchError, match="cannot fetch"):
        source.fetch(Listed("a.json", 2), Path("nowhere"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("decoder=1", ("decoder", 1)), ("scale=0.5", ("scale", 0.5)),
        ("task_token=false", ("task_token", False)), ("name=a=b", ("name", "a=b")),
    ],
)  # fmt: skip
def test_settings_are_what_they_look_like(text, expected):
    assert pulling.parse_setting(text) == expected


def test_a_setting_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        pulling.parse_setting("decoder")


def test_changed_settings_are_checked_at_once(tmp_path, tiny_llama, cache):
    from published_checkpoints import write_arc_encoder

    write_arc_encoder(tmp_path / "raw")
    with pytest.raises(CheckpointError, match="no setting 'pool'"):
        pull(tmp_path / "raw", settings=(("pool", 2),))
    folder = pull(tmp_path / "raw", target_model=tiny_llama, settings=(("pooling", 2),))
    assert read_config(folder).ratios == (2,)


def test_the_hash_of_a_small_file_is_git_s(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"hello\n")
    assert hub._git_sha1(path) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_known_repositories_name_methods_that_exist():
    from neural_condense_core.condensers.published import KNOWN
    from neural_condense_core.condensers.registry import METHODS

    assert {entry.method for entry in KNOWN} <= set(METHODS.targets())
    assert len({entry.repo for entry in KNOWN}) == len(KNOWN)
    json.dumps([entry.__dict__ for entry in KNOWN])
