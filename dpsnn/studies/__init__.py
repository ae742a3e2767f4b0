"""Publications and what becomes of them here: each a folder with its experiments, measures, figures and ledger."""
