"""Condensers for the backend's tests: an echo that fails, dies or dawdles on magic words.

Worker processes import this module by name (``backend_condensers:Trouble``), so its folder has to
be on the path.
"""

import json
import os
import re
import time
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.condensers.options import HurriedCondenser
from neural_condense_core.errors import TargetModelError


def record(**facts):
    """Append a line to the file that TROUBLE_LOG names, if any."""
    path = os.environ.get("TROUBLE_LOG")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"pid": os.getpid(), **facts}) + "\n")


class Trouble(EchoCondenser):
    """Echo that obeys: RAISE, CRASH, SLEEP0.5, HANG."""

    name = "trouble"

    def condense(self, contexts, ratio, *, queries=None):
        texts = [bytes(ids).decode() for ids in contexts]
        record(batch=texts, threads=os.environ["OMP_NUM_THREADS"])
        for text in texts:
            if "RAISE" in text:
                raise ValueError(f"cannot condense {text!r}")
            if "CRASH" in text:
                os._exit(3)
            if "HANG" in text:
                time.sleep(3600)
        naps = [float(nap) for text in texts for nap in re.findall(r"SLEEP([0-9.]+)", text)]
        time.sleep(max(naps, default=0))
        return super().condense(contexts, ratio)


class Cramped(Trouble):
    """Has memory for so many tokens at once, and fails as torch's allocator does."""

    MAX_TOKENS = 40

    def condense(self, contexts, ratio, *, queries=None):
        if sum(map(len, contexts)) > self.MAX_TOKENS:
            record(out_of_memory=len(contexts))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return super().condense(contexts, ratio)


class Recorder(Trouble):
    """Trouble that records what it was loaded with."""

    @classmethod
    def load(cls, options):
        checkpoint = None if options.checkpoint is None else str(options.checkpoint)
        record(
            target_model=options.target_model,
            checkpoint=checkpoint,
            device=options.device,
            dtype=options.dtype,
        )
        return super().load(options)


class Words(EchoCondenser):
    """Tokenizes words, and lets the front do it: no token id is a byte of the text."""

    name = "words"

    @staticmethod
    def tokenizer():
        vocabulary = {"[UNK]": 0, "a": 1, "b": 2, "harbour": 3}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.enable_truncation(2)
        return tokenizer

    def tokenize(self, context):
        tokenizer = self.tokenizer()
        tokenizer.no_truncation()
        return tokenizer.encode(context).ids

    def tokenizer_json(self):
        return self.tokenizer().to_str()


class TwoFaced(Words):
    """Says one tokenizer and uses another: the front must not believe it."""

    def tokenize(self, context):
        return list(context.encode())


class Slow(EchoCondenser):
    """Takes its time to load."""

    @classmethod
    def load(cls, options):
        time.sleep(float(os.environ.get("SLOW_LOAD_S", "2")))
        return super().load(options)


class Unloadable(EchoCondenser):
    """Never loads, for a reason that may pass."""

    @classmethod
    def load(cls, options):
        raise TargetModelError("the target model is out of reach today")


class Offered(EchoCondenser):
    """Offers some ratios only."""

    ratios = (2, 5, 8)


class Asking(EchoCondenser):
    """Needs a query, which no request carries."""

    query_aware = True


class Liar(EchoCondenser):
    """Promises more tokens than it makes."""

    def n_condensed_tokens(self, n_context_tokens, ratio):
        return 1 + super().n_condensed_tokens(n_context_tokens, ratio)

    def condense(self, contexts, ratio, *, queries=None):
        return EchoCondenser().condense(contexts, ratio)


class Hurried(EchoCondenser, HurriedCondenser):
    """Echo that records how many seconds it is given."""

    def condense_within(self, contexts, ratio, remaining_s):
        record(batch=[bytes(ids).decode() for ids in contexts], remaining_s=remaining_s)
        return self.condense(contexts, ratio)
