"""Alembic's scripts: one file a revision in `versions`, run by `scheduler_service.tables`.

A revision describes the tables of its day in words of its own; it never looks at the present ones.
"""
