"""The main job, end to end: condense a document over HTTP and ask a frozen LLM about it."""
