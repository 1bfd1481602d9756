# SPDX-License-Identifier: GPL-2.0-only
"""Find the commit that introduced a fault: predicates, the search, the journal, the report.

May import the rooms from core to doctor.
"""
