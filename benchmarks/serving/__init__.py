"""How the backend serves, beside LitServe and bare FastAPI measured in the same run."""
