"""Servers, worker processes and programs that tests start."""
