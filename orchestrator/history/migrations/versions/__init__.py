# SPDX-License-Identifier: GPL-2.0-only
"""One module a version; see alembic."""
