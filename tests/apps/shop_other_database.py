"""The shop with sessions on a database other than that of the records."""

import os

import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import dexpy
from apps.shop import *  # noqa: F403 - all of it
from apps.shop import Model

engine = sa.create_engine(os.environ["ELSEWHERE"])
Model.metadata.create_all(engine)
runtime = dexpy.configure(session_factory=sessionmaker(engine), database=os.environ["DEXPY_DATABASE"])
