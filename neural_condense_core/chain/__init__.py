"""The blockchain behind a small port: who is registered where, and what weight each one has."""
