// SPDX-License-Identifier: GPL-2.0-only
#include "passes.h"

#include "query.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

const char *const way_names[NR_WAYS] = { "maps", "smaps", "numa_maps", "smaps_rollup", "PROCMAP_QUERY" };

int way_open(enum way way, int pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, way == WAY_QUERY ? "maps" : way_names[way]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && way == WAY_QUERY) {
		struct procmap_query query = { .size = sizeof(query),
					       .query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA };

		if (ioctl(fd, PROCMAP_QUERY, &query) && errno == ENOTTY) {
			close(fd);
			errno = ENOTTY;
			return -1;
		}
	}
	return fd;
}

static uint64_t query_pass(int fd)
{
	struct procmap_query query = { .size = sizeof(query),
				       .query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA };
	uint64_t vmas = 0;

	while (!ioctl(fd, PROCMAP_QUERY, &query)) {
		vmas++;
		query.query_addr = query.vma_end;
	}
	if (errno != ENOENT && errno != ESRCH)
		kt_fail("PROCMAP_QUERY: %s", strerror(errno));
	return vmas;
}

uint64_t way_pass(enum way way, int fd)
{
	static char buffer[65536];
	uint64_t lines = 0;
	ssize_t got;

	if (way == WAY_QUERY)
		return query_pass(fd);
	if (lseek(fd, 0, SEEK_SET))
		kt_inconclusive("lseek of %s: %s", way_names[way], strerror(errno));
	while ((got = read(fd, buffer, sizeof(buffer))) > 0)
		for (const char *p = buffer; (p = memchr(p, '\n', (size_t)(buffer + got - p))); p++)
			lines++;
	if (got < 0 && errno != ESRCH)
		kt_fail("read of %s: %s", way_names[way], strerror(errno));
	return lines;
}
