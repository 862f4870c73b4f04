"""The shop, whose sessions belong to another user of the database than the records do."""

import os

import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import dexpy
from apps.shop import *  # noqa: F403 - all of it

runtime = dexpy.configure(
    session_factory=sessionmaker(sa.create_engine(os.environ["SESSIONS"])), database=os.environ["DEXPY_DATABASE"]
)
