/* SPDX-License-Identifier: GPL-2.0-only */
#define HALF 2
int half(int n);
