"""Names of condensers: shipped and pulled checkpoints, methods, paths and a user's own classes.

A name resolves in this order: shipped checkpoint (``pooled-fast``), method (``pooled`` = its
default checkpoint), pulled checkpoint, path of a checkpoint folder, ``module:Class``.
"""

from __future__ import annotations

from neural_condense_core.condensers.base import Condenser
from neural_condense_core.registry import Registry

_HERE = "neural_condense_core.condensers"

METHODS: Registry[type[Condenser]] = Registry(
    "condenser",
    {
        "pooled": f"{_HERE}.pooled:PooledCondenser",
        "icae": f"{_HERE}.icae:IcaeCondenser",
        "truncate-head": f"{_HERE}.truncate:TruncateHeadCondenser",
        "truncate-tail": f"{_HERE}.truncate:TruncateTailCondenser",
        "head-tail": f"{_HERE}.truncate:HeadTailCondenser",
        "spans": f"{_HERE}.spans:SpansCondenser",
        "stride": f"{_HERE}.stride:StrideCondenser",
        "random": f"{_HERE}.random_tokens:RandomTokensCondenser",
        "self-information": f"{_HERE}.self_information:SelfInformationCondenser",
        "mean-embedding": f"{_HERE}.mean_embedding:MeanEmbeddingCondenser",
        "sentence-retrieval": f"{_HERE}.sentence_retrieval:SentenceRetrievalCondenser",
        "selective-context": f"{_HERE}.selective_context:SelectiveContextCondenser",
        "llmlingua": f"{_HERE}.llmlingua:LLMLinguaCondenser",
        "arc-encoder": f"{_HERE}.arc_encoder:ArcEncoderCondenser",
        "lclm": f"{_HERE}.lclm:LclmCondenser",
        "echo": f"{_HERE}.echo:EchoCondenser",
        "noise": f"{_HERE}.noise:NoiseCondenser",
    },
    entry_point_group="neural_condense.condensers",
)

BASELINES = (
    "truncate-head",
    "truncate-tail",
    "head-tail",
    "spans",
    "stride",
    "random",
    "self-information",
    "mean-embedding",
)
"""Training-free methods that a trained condenser is compared with at equal length."""

PEERS = ("selective-context", "llmlingua")
"""Published training-free methods; compared with, but no part of the best baseline."""

QUERY_AWARE_BASELINES = ("sentence-retrieval",)
