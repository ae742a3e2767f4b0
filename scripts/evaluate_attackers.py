"""Write the scores of attackers' reconstructions to a table; --help shows the options."""

from dpsnn.start import script

if __name__ == "__main__":
    script("evaluate_attackers")
