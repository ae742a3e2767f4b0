"""Write the scores of attackers' reconstructions to a table; --help shows the options."""

from dpsnn.start import run

if __name__ == "__main__":
    run("evaluate_attackers")
