"""For plain ``dramatiq shop_with_broker``: a module that configures, and brings the operations."""

import dexpy

runtime = dexpy.configure()

from shop import *  # noqa: E402, F403 - the broker has to be there first
