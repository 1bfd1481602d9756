#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The maps of every process are in order: no VMA begins before the one above it ends.
checked=0
for maps in /proc/[0-9]*/maps; do
	table=$(cat "$maps" 2>/dev/null) || continue # it has ended meanwhile
	[[ -n $table ]] || continue                  # a kernel thread
	if ! gawk -f ordered.awk <<< "$table"; then
		echo "$maps is not in order" >&2
		exit 1
	fi
	((++checked))
done
echo "$checked processes"
((checked > 0))
