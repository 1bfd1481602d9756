#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# merge_config.sh -m -O DIR BASE FRAGMENT...: the last word about a symbol counts
set -e
[ "$1" = -m ] && [ "$2" = -O ]
out=$3
shift 3
cat "$@" >"$out/.config.merged"
mv "$out/.config.merged" "$out/.config"
