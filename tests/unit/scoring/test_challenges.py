"""Contexts by one seed, questions by another; nothing that can be guessed beforehand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_condense_core.errors import ConfigError
from neural_condense_core.scoring import texts as texts_module
from neural_condense_core.scoring.asking import ASKED_AS
from neural_condense_core.scoring.challenges import (
    MIN_CONTEXT_CHARS,
    N_ITEMS,
    TASKS,
    ask,
    draw_items,
    make_challenges,
    make_contexts,
)
from neural_condense_core.scoring.facts import draw_counterfactual, draw_facts
from neural_condense_core.scoring.texts import (
    Generated,
    Rows,
    fetch_parquet,
    open_texts,
    read_parquet,
    renamer,
    split_sentences,
)

BOTH = open_texts(None)
PROSE = (
    "The old clock in the hall had belonged to Margaret for years. Nobody knew why Margaret kept "
    "it at 17 minutes past the hour. Visitors from Lisbon asked about it in 1911, and then again. "
    "She would only say that the clock was right twice a day. Her brother Walter thought otherwise."
    " He had counted 17 times himself, in the spring of 1911, when Margaret was away in Lisbon. "
)


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("n_chars", [MIN_CONTEXT_CHARS, 1536, 4096])
@pytest.mark.parametrize("spec", [None, "generated", "installed"])
def test_contexts_keep_the_limit_and_have_something_to_ask(spec, n_chars):
    drafts = make_contexts(1, 24, n_chars, open_texts(spec))
    assert all(MIN_CONTEXT_CHARS // 2 < len(draft.context) <= n_chars for draft in drafts)
    assert all(draft.facts for draft in drafts)
    for draft in drafts:
        assert all(fact.statement in draft.context for fact in draft.facts)
        assert not any(fact.retold in draft.context for fact in draft.facts)
    items = [draw_items(draft, 2) for draft in drafts]
    if n_chars > MIN_CONTEXT_CHARS:
        assert {len(found) for found in items} == {N_ITEMS}
        assert {item.task for found in items for item in found} == set(TASKS)


def test_every_task_can_be_judged():
    assert set(ASKED_AS) == set(TASKS)


def test_same_seeds_same_challenges_and_others_differ():
    assert make_challenges(7, 4, 1536, BOTH) == make_challenges(7, 4, 1536, BOTH)
    one = {draft.context for draft in make_contexts(7, 4, 1536, BOTH)}
    assert not one & {draft.context for draft in make_contexts(8, 4, 1536, BOTH)}
    longer = make_contexts(7, 6, 1536, BOTH)
    assert [draft.context for draft in longer[:4]] == [
        draft.context for draft in make_contexts(7, 4, 1536, BOTH)
    ]


# Trap 19: what would be scored could be told beforehand.
def test_trap_19_what_is_asked_depends_on_a_seed_drawn_after_the_replies():
    drafts = make_contexts(7, 8, 1536, BOTH)
    asked = [[c.items for c in ask(drafts, seed)] for seed in range(6)]
    assert len({str(items) for items in asked}) == 6
    targets = {item.target for items in asked for found in items for item in found}
    assert len(targets) > 60
    assert ask(drafts, 3) == ask(drafts, 3)


def test_nothing_is_shared_between_miners_seeds():
    facts = [
        {(fact.subject, fact.value) for draft in make_contexts(seed, 4, 1536, BOTH)
         for fact in draft.facts if not fact.counterfactual}
        for seed in (1, 2)
    ]  # fmt: skip
    assert not facts[0] & facts[1]


def test_every_answer_is_in_the_text_and_no_question_holds_it():
    for draft in make_contexts(3, 40, 1536, BOTH):
        for seed in range(3):
            for item in draw_items(draft, seed):
                if item.question:
                    assert item.target in draft.context
                    assert item.target not in item.question
                if item.task == "reconstruction":
                    assert (item.bridge or "") + item.target in draft.context
                if item.task == "conversation":
                    assert item.target not in draft.context


def test_documents_are_distinct_so_that_contexts_can_be_swapped(tmp_path):
    path = parquet(tmp_path / "one.parquet", text=[PROSE * 2])
    drafts = make_contexts(5, 6, 800, open_texts(str(path)))
    assert len({draft.document for draft in drafts}) == 6
    assert drafts[0].source == "one"


# Trap 20: test requests were told from users' by their length.
def test_trap_20_lengths_and_shapes_vary():
    drafts = [draft for seed in range(50) for draft in make_contexts(seed, 4, 1536, BOTH)]
    lengths = np.array([len(draft.context) for draft in drafts])
    assert lengths.min() < 0.6 * 1536 < 0.9 * 1536 < lengths.max()
    assert lengths.std() > 150
    assert 0.1 < np.mean([draft.is_chat for draft in drafts]) < 0.6
    assert {draft.source for draft in drafts} == {
        "installed", "generated-chat", "generated-account",
    }  # fmt: skip


def test_a_limit_with_no_room_is_refused():
    with pytest.raises(ConfigError, match="240 is the least"):
        make_contexts(1, 1, 239, BOTH)


def test_tasks_can_be_chosen():
    (draft,) = make_contexts(1, 1, 1536, Generated())
    assert [i.task for i in draw_items(draft, 1, ["cloze"])] == ["cloze"]
    with pytest.raises(ConfigError, match="Did you mean 'cloze'"):
        draw_items(draft, 1, ["clozes"])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**62), st.integers(MIN_CONTEXT_CHARS, 6000), st.integers(1, 3))
def test_any_seed_and_limit_give_valid_challenges(seed, n_chars, n):
    found = make_challenges(seed, n, n_chars, BOTH)
    assert len(found) == n
    for challenge in found:
        assert len(challenge.context) <= n_chars
        assert challenge.items
        assert all(item.target.strip() for item in challenge.items)


def test_facts_of_a_document_do_not_overlap():
    facts = draw_facts(np.random.default_rng(1), 40)
    assert len(facts) == 40
    assert len({fact.subject for fact in facts}) == len({fact.value for fact in facts}) == 40
    for fact in facts:
        assert fact.value in fact.statement
        assert fact.value in fact.retold != fact.statement
        assert fact.value not in fact.question
        assert fact.cloze.replace("___", fact.value) == fact.statement


def test_a_counterfactual_has_no_way_back():
    fact = draw_counterfactual(np.random.default_rng(1))
    assert fact.counterfactual
    assert fact.reverse is None
    assert fact.value in fact.statement


def test_names_and_numbers_are_replaced_throughout():
    rename = renamer(np.random.default_rng(1), PROSE)
    found = rename(PROSE)
    assert not {"Margaret", "Lisbon", "Walter", "17", "1911"} & set(found.replace(".", "").split())
    assert found.split().count(rename("Margaret")) == PROSE.split().count("Margaret")
    assert rename("Who is Margaret?") == f"Who is {rename('Margaret')}?"
    assert renamer(np.random.default_rng(2), PROSE)("Margaret") != rename("Margaret")
    assert renamer(np.random.default_rng(2), "no names here")("x") == "x"


def test_sentences_are_whole():
    assert split_sentences('One.  Two? "Three!" Four\nfive.') == [
        "One.", "Two?", '"Three!', "Four five.",
    ]  # fmt: skip


def test_questions_of_a_file_are_asked_about_its_renamed_text(tmp_path):
    path = parquet(
        tmp_path / "qa.parquet",
        context=[PROSE] * 2,
        question=["Where was Margaret?", "Who counted?"],
        answers=[["Lisbon"], ["Walter"]],
    )
    rows = read_parquet(path)
    assert rows == [(PROSE, (("Where was Margaret?", "Lisbon"), ("Who counted?", "Walter")))]
    (draft,) = make_contexts(1, 1, 4096, Rows("qa", rows))
    (item,) = draw_items(draft, 1, ["question_answering"])
    assert item.target in draft.context
    assert item.target not in {"Lisbon", "Walter"}


def test_squad_s_own_answers_are_read(tmp_path):
    answers = pa.array([{"text": ["Lisbon"], "answer_start": [1]}])
    path = parquet(tmp_path / "s.parquet", context=[PROSE], question=["Where?"], answers=answers)
    assert read_parquet(path)[0][1] == (("Where?", "Lisbon"),)


@pytest.mark.parametrize(
    "columns",
    [{"words": ["x"]}, {"text": ["short"]}, {"text": pa.array([None], pa.string())}],
    ids=["no column", "too short", "empty"],
)
def test_a_file_without_texts_is_refused(tmp_path, columns):
    with pytest.raises(ConfigError):
        open_texts(str(parquet(tmp_path / "x.parquet", **columns)))


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match="no parquet"):
        open_texts(str(tmp_path / "x.parquet"))
    with pytest.raises(ConfigError, match="generated"):
        open_texts("nowhere.parquet")


class Hub:
    def __init__(self, files):
        self.files = files

    def list_repo_files(self, name, *, repo_type, revision):
        assert (name, repo_type, revision) == ("owner/set", "dataset", "refs/convert/parquet")
        return self.files


def test_a_dataset_of_the_hub_is_fetched(monkeypatch, tmp_path):
    import huggingface_hub

    path = parquet(tmp_path / "0.parquet", text=[PROSE])
    hub = Hub(["README.md", "default/train/0.parquet", "default/test/0.parquet"])
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    seen = []
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *a, **k: (seen.append(a), str(path))[1]
    )
    passage = open_texts("hf:owner/set:test").draw(np.random.default_rng(1), 600)
    assert passage.source == "owner/set"
    assert seen == [("owner/set", "default/test/0.parquet")]
    with pytest.raises(ConfigError, match="no parquet file of a split 'dev'"):
        fetch_parquet("owner/set", "dev")


# Trap 33: no network at the start was no validator.
def test_trap_33_without_a_hub_it_says_what_to_use():
    with pytest.raises(ConfigError, match="generated texts"):
        open_texts("hf:owner/set")


def test_installed_texts_ship():
    assert len(open_texts("installed").rows) == len(texts_module._STORIES)
