"""A module whose import raises an exception."""

raise RuntimeError("the shelf is empty")
