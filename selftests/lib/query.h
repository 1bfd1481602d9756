/* SPDX-License-Identifier: GPL-2.0-only */
/* PROCMAP_QUERY as <linux/fs.h> of 6.11 and later has it; that of the build machine may be older. */
#ifndef QUERY_H
#define QUERY_H

#include <stdint.h>
#include <sys/ioctl.h>

struct procmap_query {
	uint64_t size, query_flags, query_addr;
	uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
	uint64_t vma_name_addr, build_id_addr;
};

_Static_assert(sizeof(struct procmap_query) == 104, "the kernel's struct procmap_query has 104 bytes");

#define PROCMAP_QUERY _IOWR('f', 17, struct procmap_query)

enum {
	PROCMAP_QUERY_VMA_READABLE = 0x01,
	PROCMAP_QUERY_VMA_WRITABLE = 0x02,
	PROCMAP_QUERY_VMA_EXECUTABLE = 0x04,
	PROCMAP_QUERY_VMA_SHARED = 0x08,
	PROCMAP_QUERY_COVERING_OR_NEXT_VMA = 0x10,
	PROCMAP_QUERY_FILE_BACKED_VMA = 0x20,
};

#endif
