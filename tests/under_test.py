# SPDX-License-Identifier: GPL-2.0-only
"""What tests with real kernels work on: the command, and the kernels that they give it."""

import os
import sys

ORCHESTRATE = [sys.executable, "-m", "orchestrator.cli.main"]
#: What tests/broken, provoke.patch and the other changes of ours apply to.
LINUX_7_2 = "debian:trixie-backports/linux-source-7.2"
LINUX_6_12 = "debian:bookworm-backports/linux-source-6.12"
LINUX_6_1 = "debian:bookworm/linux-source-6.1"
#: The kernel of `make test`; one with per-VMA locks in /proc/PID/maps.
SOURCE = os.environ.get("ORCHESTRATE_TEST_SOURCE", LINUX_7_2)
