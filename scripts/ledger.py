"""Set the published figures beside ours in docs/reproduction.md; --help shows the options."""

from dpsnn.cli import script

if __name__ == "__main__":
    script("ledger")
