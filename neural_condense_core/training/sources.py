"""Where a run's texts come from: a packed folder, or Parquet files read at its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.data import (
    SEPARATOR,
    Prose,
    ProseSource,
    Questions,
    TextRows,
    read_prose,
    read_questions,
)
from neural_condense_core.training.generated import QuestionGenerator, generate_rows
from neural_condense_core.training.packed import read_pack


@dataclass(frozen=True)
class DataFiles:
    """The data of a run.

    Parameters
    ----------
    prose, qa : Parquet files
    packed : folder that ``condense pack`` wrote; replaces both
    """

    prose: Path | None = None
    qa: Path | None = None
    packed: Path | None = None

    @property
    def paths(self) -> list[Path | None]:
        """All of them, in a fixed order."""
        return [self.prose, self.qa, self.packed]

    def check(self, recipe: Recipe) -> None:
        """Refuse what a recipe cannot be trained from.

        Raises
        ------
        ConfigError
            An objective lacks its data, or there are both files and a packed folder.
        """
        if self.packed is not None:
            if self.prose is not None or self.qa is not None:
                raise ConfigError("give either --packed DIR or --prose and --qa, not both")
            return
        on_prose = sorted(recipe.all_objectives - {"answer"})
        if recipe.imitation_steps > 0:
            on_prose.append("imitation")
        if self.prose is None and on_prose:
            raise ConfigError(f"{', '.join(on_prose)}: give --prose FILE or --packed DIR")
        if self.qa is None and "answer" in recipe.all_objectives and recipe.generated_share < 1:
            raise ConfigError(
                "the answer objective needs questions: give --qa FILE, --packed DIR, or "
                "generated_share = 1"
            )


def open_sources(
    recipe: Recipe, files: DataFiles, target: HFTarget
) -> tuple[ProseSource | None, Questions | None]:
    """Return the prose and the questions of a run; None for what there is not.

    Raises
    ------
    ConfigError
        A packed folder lacks what an objective reads.
    """
    if files.packed is None:
        return _from_parquet(recipe, files, target)
    pack = read_pack(files.packed, target, int(target.embedding.num_embeddings))
    prose = pack.prose(recipe.source_weights)
    if prose is None and (recipe.all_objectives - {"answer"} or recipe.imitation_steps):
        raise ConfigError(f"{files.packed} holds no prose; pack again with --prose")
    if "answer" not in recipe.all_objectives:
        return prose, None
    if recipe.generated_share > 0 and not len(pack.generated):
        raise ConfigError(f"{files.packed} holds no generated questions; pack with --generated N")
    if recipe.generated_share < 1 and not len(pack.given):
        raise ConfigError(f"{files.packed} holds no questions; pack again with --qa")
    share = recipe.generated_share
    return prose, Questions(pack.given, pack.generated, share, pack.index.separator, prose)


def _from_parquet(
    recipe: Recipe, files: DataFiles, target: HFTarget
) -> tuple[ProseSource | None, Questions | None]:
    texts = read_prose(files.prose) if files.prose else []
    prose = Prose(texts, target, recipe.source_weights) if texts else None
    if "answer" not in recipe.all_objectives:
        return prose, None
    given = read_questions(files.qa) if files.qa else []
    generated = []
    if recipe.generated_share > 0:
        generator = QuestionGenerator([row["text"] for row in texts], given)
        generated = generate_rows(generator, recipe.generated, recipe.generated_pool, recipe.seed)
    if recipe.generated_share > 0 and not generated:
        raise ConfigError("no question could be generated: generated_pool is 0, or the kinds "
                          "need --prose or --qa")  # fmt: skip
    separator = target.tokenize(SEPARATOR)
    return prose, Questions(
        TextRows(given, target),
        TextRows(generated, target),
        recipe.generated_share,
        separator,
        prose,
    )
