"""Serve the pooled residual condenser: ``python pooled_app.py --port 8080 --devices 1``."""

from neural_condense_core.serving.cli import serve_app

if __name__ == "__main__":
    serve_app("pooled")
