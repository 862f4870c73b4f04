"""The shop with a session factory of the application, at REPEATABLE READ."""

import os

import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import dexpy
from apps.shop import *  # noqa: F403 - all of it

engine = sa.create_engine(os.environ["DEXPY_DATABASE"], isolation_level="REPEATABLE READ")
runtime = dexpy.configure(session_factory=sessionmaker(engine))
