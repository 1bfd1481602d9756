# SPDX-License-Identifier: GPL-2.0-only
"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "document",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "name",
        sa.Column("key", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "run",
        sa.Column("key", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("started_at", sa.Text, nullable=False, index=True),
        sa.Column("exit_code", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, sa.ForeignKey("document.digest"), nullable=False),
    )
    op.create_table(
        "kernel",
        sa.Column("key", sa.Integer, primary_key=True),
        sa.Column("run", sa.Integer, sa.ForeignKey("run.key"), nullable=False),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("label", "arch", "variant", "release", "environment")
        ),
        sa.UniqueConstraint("run", "label", "arch", "variant"),
    )
    op.create_table(
        "case_count",
        sa.Column("kernel", sa.Integer, sa.ForeignKey("kernel.key"), primary_key=True),
        sa.Column("name", sa.Integer, sa.ForeignKey("name.key"), primary_key=True),
        sa.Column("verdict", sa.Text, primary_key=True),
        sa.Column("boots", sa.Integer, nullable=False),
        sa.Column("reason", sa.Integer, sa.ForeignKey("name.key")),
    )
    op.create_index("case_count_by_name", "case_count", ["name", "kernel"])
    op.create_table(
        "sample",
        sa.Column("kernel", sa.Integer, sa.ForeignKey("kernel.key"), primary_key=True),
        sa.Column("name", sa.Integer, sa.ForeignKey("name.key"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("value", sa.Float(53), nullable=False),
    )
    op.create_index("sample_by_name", "sample", ["name", "kernel"])
