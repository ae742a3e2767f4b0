"""Audit a model of anyone's: what leaks at each cut, what is guaranteed, and whether the audit can be believed."""
