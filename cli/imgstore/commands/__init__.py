"""One module per verb, with `run(options, output)`, which returns the exit code."""
