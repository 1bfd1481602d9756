// SPDX-License-Identifier: GPL-2.0-only
/* What mmap(), mprotect() and munmap() do to a page is what /proc/self/maps says of it. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The permissions of the VMA at addr, or "none". */
static const char *shown(const void *addr)
{
	static char perms[8];
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long start, end, at = (unsigned long)addr;
	char line[512];

	strcpy(perms, "none");
	while (maps && fgets(line, sizeof(line), maps)) {
		char found[8];

		if (sscanf(line, "%lx-%lx %7s", &start, &end, found) == 3 && start <= at && at < end)
			strcpy(perms, found);
	}
	if (maps)
		fclose(maps);
	return perms;
}

static int is(const void *addr, const char *wanted)
{
	const char *perms = shown(addr);

	if (strcmp(perms, wanted) != 0) {
		fprintf(stderr, "maps says %s of a page that is %s\n", perms, wanted);
		return 0;
	}
	return 1;
}

int main(void)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	if (!is(page, "rw-p"))
		return 1;
	if (mprotect(page, size, PROT_READ) || !is(page, "r--p"))
		return 1;
	if (munmap(page, size) || !is(page, "none"))
		return 1;
	return 0;
}
