"""The HTTP backend that serves condensers."""
