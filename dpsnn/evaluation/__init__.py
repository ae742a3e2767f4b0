"""From checkpoints to rows, from rows to tables and figures."""
