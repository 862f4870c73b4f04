"""The numbered migrations of dexpy's tables.

Version 1 is the schema before versions had numbers; a database without tables has version 0 and gets the newest version
at once. A migration is frozen: it contains its SQL as text for each kind of database, and never uses
`dexpy.database.tables`, which changes with later versions.
"""
