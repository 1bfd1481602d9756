# SPDX-License-Identifier: GPL-2.0-only
"""The history: every run in a database, SQLite or PostgreSQL, and what it shows over time.

It may import rooms up to ``run``. The database holds the document of each run as it is, by digest; the other
tables are made from it for queries, so that an import of an export gives the same database.
"""
