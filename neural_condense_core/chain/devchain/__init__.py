"""A development chain in one SQLite file, spoken to through the bittensor SDK's own protocol."""
