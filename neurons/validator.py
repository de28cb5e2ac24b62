"""Run a validator: ``python -m neurons.validator --netuid 52 --subtensor.network finney ...``."""

from neural_condense_core.validator.cli import main

if __name__ == "__main__":
    main()
