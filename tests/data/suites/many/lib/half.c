// SPDX-License-Identifier: GPL-2.0-only
#include "half.h"

int half(int n)
{
	return n / HALF;
}
