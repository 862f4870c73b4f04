"""The shop with sessions of a database user other than that of the records."""

import os

import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import dexpy
from apps.shop import *  # noqa: F403 - all of it

runtime = dexpy.configure(
    session_factory=sessionmaker(sa.create_engine(os.environ["SESSIONS"])), database=os.environ["DEXPY_DATABASE"]
)
