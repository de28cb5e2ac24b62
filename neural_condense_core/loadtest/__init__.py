"""Load test of a tier: open-loop requests at the tier's rate, every reply checked, one verdict."""
