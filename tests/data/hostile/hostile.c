// SPDX-License-Identifier: GPL-2.0-only
/* Programs that do to a guest what broken kernels do; the first argument says which. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0) {
		perror(path);
		return 1;
	}
	return close(fd);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "panic"))
		return put("/proc/sysrq-trigger", "c");
	if (!strcmp(what, "splat"))
		return put("/dev/kmsg", "<4>WARNING: mm/mmap_lock.c:1 at lock_next_vma+0x1/0x2, CPU#0: hostile/1\n");
	if (!strcmp(what, "hang"))
		for (;;)
			pause();
	return 0;
}
