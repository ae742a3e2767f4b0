"""Train one split classifier with its defences; --help shows the options."""

from dpsnn.start import script

if __name__ == "__main__":
    script("train_model")
