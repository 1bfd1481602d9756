# SPDX-License-Identifier: GPL-2.0-only
"""Virtual machines: the root file system, QEMU, the console, SSH, snapshots, and the choice of KVM or TCG.

May import the rooms from core to kernel.
"""
