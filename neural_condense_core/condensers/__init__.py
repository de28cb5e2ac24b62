"""Condensers: one file per method behind one contract."""
