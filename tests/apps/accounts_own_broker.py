"""A module for plain ``dramatiq apps.accounts_own_broker``, which configures dexpy and imports the operations."""

import dexpy

runtime = dexpy.configure()

from apps.accounts import *  # noqa: E402, F403 - the broker must exist first
