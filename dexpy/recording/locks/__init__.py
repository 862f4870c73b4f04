"""Advisory locks: a way for each place that can keep them."""
