"""Judging condensed tokens."""
