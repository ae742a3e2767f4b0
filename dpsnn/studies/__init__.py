"""Publications and what becomes of them here: each a folder with its experiments, measures, figures and ledger.

A folder that declares itself (see `dpsnn/runner/study.py`) is found; nothing else need know it.
"""
