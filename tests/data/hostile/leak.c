// SPDX-License-Identifier: GPL-2.0-only
/* Reads the beginning of its maps, and then unmaps what it has: waits for ever if the kernel left a VMA locked. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

/* More mappings than one read of the file tells of. */
enum { PAGE = 4096, PAGES = 512 };

int main(void)
{
	char *area = mmap(NULL, PAGE * PAGES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), text[2048];
	int fd = open("/proc/self/maps", O_RDONLY);

	if (area == MAP_FAILED || fd < 0)
		return 1;
	for (int i = 0; i < PAGES; i += 2)
		if (mprotect(area + i * PAGE, PAGE, PROT_NONE))
			return 1;
	if (read(fd, text, sizeof(text)) < 1)
		return 1;
	return munmap(area, PAGE * PAGES) ? 1 : 0;
}
