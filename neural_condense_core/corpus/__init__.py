"""Bulk condensing: a parquet file of texts in, safetensors shards with an index out."""

from neural_condense_core.corpus.reading import read

__all__ = ["read"]
