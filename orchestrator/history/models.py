# SPDX-License-Identifier: GPL-2.0-only
"""The tables of the history."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables."""


class Document(Base):
    """A ``results.json`` as canonical JSON, compressed, by the SHA-256 of the JSON."""

    __tablename__ = "document"
    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class Name(Base):
    """The id of a case, or ``suite/metric``; also a reason: each text once."""

    __tablename__ = "name"
    key: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text, unique=True)


class Run(Base):
    """A run; ``exit_code`` is that of its command."""

    __tablename__ = "run"
    key: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(Text, unique=True)
    started_at: Mapped[str] = mapped_column(Text, index=True)
    exit_code: Mapped[int]
    digest: Mapped[str] = mapped_column(ForeignKey("document.digest"))


class Kernel(Base):
    """A kernel of a run, with what its times depend on."""

    __tablename__ = "kernel"
    __table_args__ = (UniqueConstraint("run", "label", "arch", "variant"),)
    key: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("run.key"))
    label: Mapped[str] = mapped_column(Text)
    arch: Mapped[str] = mapped_column(Text)
    variant: Mapped[str] = mapped_column(Text)
    release: Mapped[str] = mapped_column(Text)
    environment: Mapped[str] = mapped_column(Text)


class CaseCount(Base):
    """In how many boots of a kernel a case had a verdict, with the last reason."""

    __tablename__ = "case_count"
    __table_args__ = (Index("case_count_by_name", "name", "kernel"),)
    kernel: Mapped[int] = mapped_column(ForeignKey("kernel.key"), primary_key=True)
    name: Mapped[int] = mapped_column(ForeignKey("name.key"), primary_key=True)
    verdict: Mapped[str] = mapped_column(Text, primary_key=True)
    boots: Mapped[int]
    reason: Mapped[int | None] = mapped_column(ForeignKey("name.key"))


class Sample(Base):
    """A metric of one boot; ``number`` counts the boots of the kernel."""

    __tablename__ = "sample"
    __table_args__ = (Index("sample_by_name", "name", "kernel"),)
    kernel: Mapped[int] = mapped_column(ForeignKey("kernel.key"), primary_key=True)
    name: Mapped[int] = mapped_column(ForeignKey("name.key"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]
