"""The text side of a target model that has a Hugging Face tokenizer: ids, text, chat turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_NO_TEMPLATE = "\n"
"""Between messages, for a model without a chat template."""


def without_template(messages: Sequence[dict[str, str]]) -> str:
    """Return the messages one below the other, for a model without a chat template."""
    return _NO_TEMPLATE.join([*(message["content"] for message in messages), ""])


class HFText:
    """What a target model does with text, by its Hugging Face tokenizer.

    Parameters
    ----------
    tokenizer : a tokenizer of transformers
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def tokenize(self, text: str) -> list[int]:
        """Return token ids, without special tokens of its own adding."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def tokenizer_json(self) -> str | None:
        """Return the tokenizer as JSON of the ``tokenizers`` library, None if it is another's."""
        tokenizer = self.tokenizer
        return str(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the chat template's text up to where the assistant speaks.

        A model without a template gets the messages one below the other.
        """
        if self.tokenizer.chat_template is None:
            return without_template(messages)
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        )
