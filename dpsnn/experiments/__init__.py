"""Which experiments belong together, and how to run them."""
