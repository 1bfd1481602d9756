#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
set -eu
. ./lib/functions.sh
mapfile -t words < words.txt
equal "${words[2]}" smaps
equal "$1/$2" "one word/two"
equal "$GREETING" "good day"
equal "$(type -p status.sh || true)" ""  # programs have their own names, not those of their scripts
equal "$(type -p skips)" "$PWD/skips"
equal "$(type -p taskset)" /usr/bin/taskset
[[ $(taskset --version) == *util-linux* ]]
[[ $(flock --version) == *util-linux* ]]
blkid --version 2>&1 | grep -q util-linux
# /bin/sh stays what it was
equal "$(readlink /bin/sh)" busybox
