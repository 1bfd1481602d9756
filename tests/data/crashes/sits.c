// SPDX-License-Identifier: GPL-2.0-only
/* One thread sits in the kernel on the lock of a VMA, the other wants to change that VMA: a hang. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static void *sit(void *page)
{
	char text[64];
	int file = open("/proc/provoke", O_WRONLY), length;

	length = snprintf(text, sizeof(text), "sits_on_vma_lock %lx", (unsigned long)page);
	if (file < 0 || write(file, text, length) != length)
		perror("/proc/provoke");
	return NULL;
}

int main(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	pthread_t thread;

	page[0] = 1;
	pthread_create(&thread, NULL, sit, page);
	sleep(2);
	mprotect(page, 4096, PROT_READ);
	puts("the lock did not hold");
	return 1;
}
