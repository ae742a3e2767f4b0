"""How a list of experiments is run: train, tune, skip what is there, go on with what was interrupted."""
