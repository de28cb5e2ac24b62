"""The miner node: signed requests of validators in, condensed tokens of a backend out."""
