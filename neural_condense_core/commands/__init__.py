"""Small commands of the ``condense`` command line, one module each."""
