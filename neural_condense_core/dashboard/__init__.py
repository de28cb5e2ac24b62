"""A read-only page over a validator's records: who is how good, why, and what it earns."""
