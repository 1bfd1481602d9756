# SPDX-License-Identifier: GPL-2.0-only
equal() {
	[[ $1 == "$2" ]] || { echo "'$1' is not '$2'" >&2; exit 1; }
}
