#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# provoke.sh FILE WORD [FILE=VALUE ...]: set what a crash needs, then provoke it by one write.
file=$1 word=$2
shift 2
mount -t debugfs none /sys/kernel/debug 2>/dev/null
for setting; do
	echo "${setting#*=}" >"${setting%%=*}" || exit 1
done
[ -e "$file" ] || exit 1
echo "$word" >"$file"
# what the kernel prints a moment later is still this program's
sleep 1
exit 0
