"""The validator's command line, behind ``python -m neurons.validator``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from neural_condense_core.config import ValidatorSettings
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.flags import load_settings

PROG = "python -m neurons.validator"
DESCRIPTION = "Ask miners, have their replies judged, set weights, and serve users."


def main(argv: Sequence[str] | None = None) -> None:
    """Run a validator.

    Parameters
    ----------
    argv : without the program's name; None = the process's

    Raises
    ------
    SystemExit
        With the error's exit code: 2 for a fault of the set-up, 3 for a chain out of reach.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        settings = load_settings(ValidatorSettings, words, prog=PROG, description=DESCRIPTION)
        # After the flags: help and a misspelt flag need not wait for the SDK.
        from neural_condense_core.validator.node import run

        run(settings)
    except NeuralCondenseError as error:
        for line in error.message.splitlines():
            sys.stderr.write(f"error ({error.code}): {line}\n")
        raise SystemExit(error.exit_code) from None
