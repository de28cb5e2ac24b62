"""Serve the scoring service: ``python services/validator_backend/scoring/app.py --port 8089``."""

from neural_condense_core.scoring.server import score_app

if __name__ == "__main__":
    score_app()
