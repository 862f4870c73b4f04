"""A module that cannot be imported, by its own fault."""

raise RuntimeError("the shelf is empty")
