"""Whether folders of models and results are as they were left, and what in them belongs to nothing."""
