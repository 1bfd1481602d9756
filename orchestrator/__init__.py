# SPDX-License-Identifier: GPL-2.0-only
"""Test, measure and bisect per-VMA locks and /proc/PID/maps in kernels under QEMU.

The packages are rooms in a fixed order, and each imports only rooms before it: core, results, debian, source,
kernel, vm, suites, splat, evidence, analysis, verdict, plan, cell, engine, run, report, debug, doctor,
bisect, series, cli. ``make lint`` checks the order.
"""
