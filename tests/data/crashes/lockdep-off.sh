#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Three cases, each marked in the kernel's log; lockdep reports in the second, and is off in the third.
word=${ORCHESTRATE_MARK%% *} path=${ORCHESTRATE_MARK#* }
mark() { echo "orchestrate: $1 $path/$2 #$word" >/dev/kmsg; }
echo 'KTAP version 1'
echo 1..3
number=0
for case in before two-orders after; do
	number=$((number + 1))
	mark begin $case
	if [ $case = two-orders ]; then
		echo two_orders >/proc/provoke
	fi
	mark end $case
	echo "ok $number $case"
done
