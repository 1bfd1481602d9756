// SPDX-License-Identifier: GPL-2.0-only
int nowhere(void);
int unlinked(void)
{
	return nowhere();
}
