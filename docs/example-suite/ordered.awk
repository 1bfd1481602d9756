# SPDX-License-Identifier: GPL-2.0-only
{
	split($1, range, "-")
	start = strtonum("0x" range[1])
	if (start < end) {
		print "line " NR ": " $0
		exit 1
	}
	end = strtonum("0x" range[2])
}
