"""Set the published figures beside ours in docs/reproduction.md; --help shows the options."""

from dpsnn.start import script

if __name__ == "__main__":
    script("ledger")
