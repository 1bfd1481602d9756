#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
echo 'TAP version 13'
echo '1..2'
echo 'ok 1 first'
echo '# reports.sh: why it failed' >&2
echo 'not ok 2 second'
exit 1
