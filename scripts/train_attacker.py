"""Train one attacker of a classifier; --help shows the options."""

from dpsnn.start import script

if __name__ == "__main__":
    script("train_attacker")
