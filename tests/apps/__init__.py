"""Example applications, which tests and their worker processes import."""
