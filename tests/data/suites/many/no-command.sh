#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
no-such-command --at-all
