#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
echo "$2" >&2
exit "$1"
