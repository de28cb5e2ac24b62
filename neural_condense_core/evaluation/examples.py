"""Examples of an evaluation: what was asked, and what the model wrote behind each kind of context.

Design decisions

* The first items that the model wrote for, never chosen by how they turned out.
* They hold text of the evaluation's files: whoever must not show it asks for none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neural_condense_core.evaluation.metrics import Variant
from neural_condense_core.evaluation.probes import Probe, TaskName
from neural_condense_core.evaluation.written import Reply
from neural_condense_core.llm.base import TargetLLM

MAX_CONTEXT_CHARS = 2_000


class Examples:
    """Collects examples while an evaluation runs.

    Parameters
    ----------
    target : whose tokens the contexts are
    n : most examples a task
    """

    def __init__(self, target: TargetLLM, n: int) -> None:
        self._target = target
        self._n = n
        self._found: dict[tuple[TaskName, int], dict[str, object]] = {}
        self._replies: dict[tuple[TaskName, int], list[dict[str, object]]] = {}

    def add(
        self,
        task: TaskName,
        probes: Sequence[Probe],
        replies: Mapping[int, Reply],
        variant: Variant,
    ) -> None:
        """Take the replies of a variant to the first items."""
        for i in sorted(replies)[: self._n]:
            if (task, i) not in self._found:
                self._found[task, i] = self._described(task, probes[i], replies[i])
            self._replies.setdefault((task, i), []).append({
                "condenser": variant.condenser,
                "ratio": variant.ratio,
                "text": replies[i].text,
                "f1": replies[i].f1 if replies[i].golds else None,
            })

    def as_json(self) -> list[dict[str, object]]:
        """Return the examples as JSON-ready values, task by task."""
        return [found | {"replies": self._replies[key]} for key, found in self._found.items()]

    def _described(self, task: TaskName, probe: Probe, reply: Reply) -> dict[str, object]:
        return {
            "task": task,
            "source": probe.source,
            "document": probe.document,
            "n_context": len(probe.context_ids),
            "context": self._target.decode(probe.context_ids)[:MAX_CONTEXT_CHARS],
            "question": probe.question,
            "gold": reply.golds[0] if reply.golds else reply.wanted[:MAX_CONTEXT_CHARS],
        }
