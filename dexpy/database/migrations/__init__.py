"""The numbered migrations of dexpy's tables.

Version 1 is the schema before there were numbers; a database without tables is version 0 and gets the newest version at
once. A migration is frozen: it contains its SQL as text, for each kind of database, and never refers to
`dexpy.database.tables`, which changes with later versions.
"""
