# SPDX-License-Identifier: GPL-2.0-only
"""Open the database of the history, and bring its tables up to date."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from orchestrator.core.errors import InfraError, UserError

#: Names another database: a URL of SQLAlchemy, or a file for SQLite.
VARIABLE = "ORCHESTRATE_HISTORY"
#: Seconds to wait for another writer.
_BUSY_S = 60


def default_url() -> str:
    """The URL in ``$ORCHESTRATE_HISTORY``, else that of a file in the user's data folder."""
    setting = os.environ.get(VARIABLE) or str(platformdirs.user_data_path("orchestrate") / "history.sqlite")
    if "://" not in setting:
        return f"sqlite:///{Path(setting).expanduser().absolute()}"
    # the driver that this project comes with
    return setting.replace("postgresql://", "postgresql+psycopg://", 1)


class History:
    """A database with tables of the current version. A context manager; close it when done."""

    def __init__(self, url: str) -> None:
        """Open the database; a new one is made, an older one is brought up to date.

        :param url: of SQLAlchemy: ``sqlite:////path`` or ``postgresql+psycopg://…``.
        :raises UserError: not a URL, or the database of a newer orchestrate.
        :raises InfraError: it cannot be opened.
        """
        try:
            self._engine = _engine(url)
        except (ArgumentError, NoSuchModuleError) as error:
            raise UserError(
                f"{VARIABLE}: {error}", remedy="Name a file, or a URL such as postgresql://host/name."
            ) from None
        with self._trouble():
            _upgrade(self._engine)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The database in messages, without a password."""
        url = self._engine.url
        return url.database or "" if url.drivername == "sqlite" else url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: committed at the end, rolled back on an error.

        :raises InfraError: the database is locked, full, read-only or gone.
        """
        with self._trouble(), Session(self._engine) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise InfraError(
                f"the history {self.name}: {str(error.orig).strip()}",
                remedy=f"Make it accessible, or name another one with {VARIABLE}.",
            ) from None


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.drivername != "sqlite":
        return sa.create_engine(parsed)
    with contextlib.suppress(OSError):
        Path(parsed.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_S})

    # SQLAlchemy's recipe for transactions of SQLite that include the change of tables
    @sa.event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        with contextlib.suppress(sqlite3.OperationalError):
            # readers do not wait for a writer; a read-only file stays as it is
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _upgrade(engine: sa.Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # one process at a time changes tables; it holds until the transaction ends
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7236120051)"))
        current = MigrationContext.configure(connection).get_current_revision()
        if current == scripts.get_current_head():
            return
        if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
            raise UserError(
                f"the history has tables of version {current}, which this orchestrate does not know",
                remedy="Use the newer orchestrate that made it.",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
