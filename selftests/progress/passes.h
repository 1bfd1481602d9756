/* SPDX-License-Identifier: GPL-2.0-only */
/* One complete read of an address space: of a file, or by queries. */
#ifndef PASSES_H
#define PASSES_H

#include "kt.h"

enum way { WAY_MAPS, WAY_SMAPS, WAY_NUMA_MAPS, WAY_ROLLUP, WAY_QUERY, NR_WAYS };

extern const char *const way_names[NR_WAYS];

/* A descriptor; -1 and errno, if the kernel lacks the file or the ioctl. */
int way_open(enum way way, int pid);
/* Once over all of it: the lines, or the VMAs that were answered. 0, if the process read is gone. */
uint64_t way_pass(enum way way, int fd);

#endif
