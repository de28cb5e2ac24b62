"""Launchers of the nodes: ``python -m neurons.miner`` and ``python -m neurons.validator``."""
