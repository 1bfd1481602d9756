// SPDX-License-Identifier: GPL-2.0-only
int lock_vma_under_rcu(void);
int lock_vma_under_rcu(void)
{
	return 0;
}
