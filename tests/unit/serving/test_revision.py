from dataclasses import replace

import pytest

from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.serving import revision
from neural_condense_core.serving.jobs import WorkerSpec
from neural_condense_core.serving.revision import contents, revision_of, target_revision

SPEC = WorkerSpec("echo", None, None, None, "auto", "cpu", 1, 100, (16,))


class Other(EchoCondenser):
    """The same code from another file."""


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "condenser.safetensors").write_bytes(bytes(100))
    (folder / "config.json").write_text("{}")
    return folder


def of(spec=SPEC, condenser=None, checkpoint=None, ratio=4.0):
    return revision_of(spec, condenser or EchoCondenser("toy"), checkpoint, ratio)


def test_it_is_short_and_always_the_same():
    assert of() == of()
    assert len(of()) == 16
    assert int(of(), 16) >= 0


def test_what_changes_answers_changes_it(weights, tmp_path):
    found = [
        of(),
        of(ratio=8.0),
        of(replace(SPEC, dtype="bfloat16")),
        of(replace(SPEC, device="cuda:1")),
        of(replace(SPEC, condenser="echo+refine=8")),
        of(condenser=Other("toy")),
        of(condenser=EchoCondenser("other")),
        of(condenser=EchoCondenser(str(weights))),
        of(checkpoint=weights),
    ]
    (weights / "condenser.safetensors").write_bytes(bytes(99) + b"\1")
    found += [of(checkpoint=weights), of(condenser=EchoCondenser(str(weights)))]
    assert len(set(found)) == len(found)


def test_where_it_lies_and_what_describes_it_do_not_change_it(weights, tmp_path):
    before = contents(weights)
    (weights / "README.md").write_text("a model card")
    moved = weights.rename(tmp_path / "moved")
    assert contents(moved) == before
    assert of(replace(SPEC, device="cuda:0")) == of(replace(SPEC, device="cuda:1"))


def test_a_file_by_itself_and_nested_ones_count(weights):
    deep = weights / "published" / "decoder"
    deep.mkdir(parents=True)
    before = contents(weights)
    (deep / "model.safetensors").write_bytes(b"x")
    assert contents(weights) != before
    assert contents(deep / "model.safetensors") != contents(weights / "config.json")


def test_of_a_large_file_pieces_are_read_to_its_very_end(tmp_path, monkeypatch):
    monkeypatch.setattr(revision, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(revision, "PIECE_BYTES", 10)
    path = tmp_path / "model.safetensors"
    raw = bytearray(2000)
    seen = set()
    for at in (None, 0, 1999):
        if at is not None:
            raw[at] ^= 1
        path.write_bytes(raw)
        seen.add(contents(path))
    assert len(seen) == 3


def test_a_file_that_cannot_be_read_means_no_revision(tmp_path, caplog):
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    (folder / "b.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(revision, "MAX_FILES", 1)
        assert of(checkpoint=folder) == ""
    assert "no cache" in caplog.text


def test_a_model_of_the_hub_is_known_by_its_commit(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda name, file: f"/cache/models--a--b/snapshots/0123abcd/{file}",
    )
    assert target_revision("a/b") == b"a/b@0123abcd"


@pytest.mark.parametrize("name", ["never/fetched", "no such:name", "toy"])
def test_any_other_is_known_by_its_name(name):
    assert target_revision(name) == f"{name}@".encode()
