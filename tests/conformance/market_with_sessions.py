"""The market on sessions of its own, at REPEATABLE READ."""

import os

import sqlalchemy as sa
from market import *  # noqa: F403 - all of it
from sqlalchemy.orm import sessionmaker

import dexpy

engine = sa.create_engine(os.environ["DEXPY_DATABASE"], isolation_level="REPEATABLE READ")
runtime = dexpy.configure(session_factory=sessionmaker(engine))
