"""Draw originals above an attacker's reconstructions; --help shows the options."""

from dpsnn.start import script

if __name__ == "__main__":
    script("plot_attack")
