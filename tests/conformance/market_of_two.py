"""The market, whose sessions belong to another user of the database than the records do."""

import os

import sqlalchemy as sa
from market import *  # noqa: F403 - all of it
from sqlalchemy.orm import sessionmaker

import dexpy

runtime = dexpy.configure(
    session_factory=sessionmaker(sa.create_engine(os.environ["SESSIONS"])), database=os.environ["DEXPY_DATABASE"]
)
