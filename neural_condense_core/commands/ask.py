"""``condense ask``: a question about a text, answered from its condensed tokens.

Design decisions

* ``--compare`` answers the same question from nothing and from the full text too: the only way to
  see what the condensed tokens brought, and what they lost. A full text that the model has no room
  for is left out, aloud: condensing is for such texts.
* Times are taken on a second run of the same shape; the first pays for loading kernels. It
  condenses the tokens backwards, as some methods keep what they found out about a text.
* ``--engine`` names who reads. The condenser always runs here; its rows go to the engine.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from neural_condense_core.command_options import Device, RefineMs, RefineSteps
from neural_condense_core.console import check_writable, messages, read_text, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from neural_condense_core.llm.base import Segment, TargetLLM


@dataclass(frozen=True)
class Answer:
    """One answer.

    Parameters
    ----------
    name : ``"none"``, ``"full"`` or the condenser's
    answer : text
    n_tokens : rows that stand for the context
    n_prompt_tokens : rows of the whole prompt
    condense_ms : milliseconds to condense; None where nothing was condensed
    answer_ms : milliseconds to read the prompt and to answer
    """

    name: str
    answer: str
    n_tokens: int
    n_prompt_tokens: int
    condense_ms: float | None
    answer_ms: float


def _answer(
    target: TargetLLM,
    name: str,
    context: Segment | None,
    question: str,
    max_new_tokens: int,
    *,
    condense_ms: float | None = None,
    warm: bool,
) -> Answer:
    from neural_condense_core.llm.prompt import answer_prompt, prompt_length

    prompt = answer_prompt(target, context, question)
    if warm:
        target.generate([prompt], 1)
    started = time.perf_counter()
    answer = target.generate([prompt], max_new_tokens)[0]
    elapsed_ms = (time.perf_counter() - started) * 1e3
    n_tokens = len(context) if context is not None else 0
    return Answer(name, answer, n_tokens, prompt_length(prompt), condense_ms, elapsed_ms)


def _fits(target: TargetLLM, full: Segment, question: str, max_new_tokens: int) -> bool:
    """Return whether the full text can be asked; say so where it cannot."""
    from neural_condense_core.llm.prompt import answer_prompt, prompt_length

    needed = prompt_length(answer_prompt(target, full, question)) + max_new_tokens
    if needed <= target.max_positions:
        return True
    messages().print(
        f"The full text does not fit {target.name}: prompt and answer take {needed:,} positions of "
        f"{target.max_positions:,}; no answer from it.",
        markup=False,
        soft_wrap=True,
    )
    return False


def _answers(
    context: str,
    question: str,
    condenser: str,
    ratio: float,
    max_new_tokens: int,
    *,
    compare: bool,
    target_name: str | None,
    engine: str,
    device: str,
) -> tuple[str, list[Answer]]:
    from neural_condense_core.commands.condense import condense_timed
    from neural_condense_core.condensers.checkpoints import load_condenser
    from neural_condense_core.llm.base import TokenIds, as_segment
    from neural_condense_core.llm.engine_choice import parse_engine
    from neural_condense_core.llm.engines import open_engine

    console = messages()
    chosen = parse_engine(engine)  # before anything is loaded: a wrong one is known by then
    with console.status(f"Loading {condenser} and its target model"):
        loaded = load_condenser(condenser, target_name, device=device)
        target = open_engine(chosen, loaded.target_model, device=device)
    with console.status("Condensing"):
        ids = loaded.tokenize(context)
        if compare:
            condense_timed(loaded, ids[::-1], ratio, [question])
        tokens, condense_ms = condense_timed(loaded, ids, ratio, [question])
    variants: dict[str, Segment | None] = {}
    if compare:
        variants["none"] = None
        full = TokenIds(tuple(target.tokenize(context)))
        if _fits(target, full, question, max_new_tokens):
            variants["full"] = full
    variants[loaded.name] = as_segment(tokens)
    found = []
    for name, segment in variants.items():
        with console.status(f"Answering from {name}"):
            found.append(
                _answer(
                    target,
                    name,
                    segment,
                    question,
                    max_new_tokens,
                    condense_ms=condense_ms if name == loaded.name else None,
                    warm=compare,
                )
            )
    return target.name, found


def _table(answers: list[Answer]) -> Table:
    from rich.table import Table

    table = Table(title=f"The same question from {len(answers)} contexts")
    for column in ("context", "context tokens", "prompt tokens", "condense ms", "answer ms"):
        table.add_column(column, justify="left" if column == "context" else "right")
    table.add_column("answer", overflow="fold")
    for each in answers:
        condense_ms = "" if each.condense_ms is None else f"{each.condense_ms:,.0f}"
        table.add_row(
            each.name,
            f"{each.n_tokens:,}",
            f"{each.n_prompt_tokens:,}",
            condense_ms,
            f"{each.answer_ms:,.0f}",
            _plain(" ".join(each.answer.split())),
        )
    return table


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def ask(
    source: Annotated[str, typer.Argument(metavar="FILE|-", help="The text; - is stdin.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    ratio: Annotated[
        float, typer.Option("--ratio", help="Context tokens per condensed token.")
    ] = 4.0,
    condenser: Annotated[
        str, typer.Option("--condenser", help="Checkpoint, method, folder or module:Class.")
    ] = "pooled",
    compare: Annotated[
        bool, typer.Option("--compare", help="Answer from nothing and from the full text too.")
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max_new_tokens", min=1, max=4096, help="Longest answer.")
    ] = 48,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Model that answers; default: the condenser's own."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="ENGINE",
            help="Who reads: hf, llama-cpp, llama-cpp=FILE.gguf, vllm=URL, sglang=URL.",
        ),
    ] = "hf",
    device: Device = "cpu",
    refine_steps: RefineSteps = None,
    refine_ms: RefineMs = None,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Answers as JSON; - is stdout.")
    ] = None,
) -> None:
    """Ask a question about a text, from its condensed tokens."""
    from neural_condense_core.condensers.options import with_refinement

    check_writable(json_path)
    condenser = with_refinement(condenser, refine_steps, refine_ms)
    context = read_text(source)
    target_name, answers = _answers(
        context,
        question,
        condenser,
        ratio,
        max_new_tokens,
        compare=compare,
        target_name=target,
        engine=engine,
        device=device,
    )
    if compare:
        messages().print(_table(answers))
    elif json_path != "-":
        typer.echo(answers[-1].answer)
    write_json(
        json_path,
        {
            "schema": 1,
            "source": source,
            "question": question,
            "target_model": target_name,
            "engine": engine,
            "ratio": ratio,
            "answers": [asdict(answer) for answer in answers],
        },
    )
