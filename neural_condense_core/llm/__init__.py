"""Target models: the frozen LLMs that read text and condensed tokens."""
