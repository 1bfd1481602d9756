# SPDX-License-Identifier: GPL-2.0-only
"""What alembic calls for a migration: in the transaction of the caller, all or nothing."""

from __future__ import annotations

from alembic import context

from orchestrator.history.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
