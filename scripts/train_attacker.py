"""Train one attacker of a classifier; --help shows the options."""

from dpsnn.start import run

if __name__ == "__main__":
    run("train_attacker")
