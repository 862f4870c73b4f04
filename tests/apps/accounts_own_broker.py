"""For plain ``dramatiq apps.accounts_own_broker``: a module that configures, and brings the operations."""

import dexpy

runtime = dexpy.configure()

from apps.accounts import *  # noqa: E402, F403 - the broker has to be there first
