"""Draw originals above an attacker's reconstructions; --help shows the options."""

from dpsnn.start import run

if __name__ == "__main__":
    run("plot_attack")
