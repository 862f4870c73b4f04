"""Example applications that tests and the processes that they start share."""
