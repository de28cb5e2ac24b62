"""Neural Condense: long text in, condensed tokens out, a frozen LLM answers from them."""

__version__ = "0.1.0"
