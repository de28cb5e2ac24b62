"""Training of condensers."""
