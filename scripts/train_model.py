"""Train one split classifier with its defences; --help shows the options."""

from dpsnn.start import run

if __name__ == "__main__":
    run("train_model")
