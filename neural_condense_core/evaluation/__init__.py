"""Offline evaluation of condensers."""
