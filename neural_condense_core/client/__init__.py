"""Clients for what this project serves."""
