// SPDX-License-Identifier: GPL-2.0-only
/* What kt.h offers beside cases: random numbers, time, CPUs, memory, processes, files of the kernel. */
#include "kt.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

/* splitmix64, by Sebastiano Vigna */
uint64_t kt_random(struct kt_rng *rng)
{
	uint64_t z = (rng->state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

uint64_t kt_below(struct kt_rng *rng, uint64_t bound)
{
	return bound ? kt_random(rng) % bound : 0;
}

uint64_t kt_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * KT_NSEC + (uint64_t)now.tv_nsec;
}

void kt_sleep_ns(uint64_t ns)
{
	struct timespec rest = { .tv_sec = (time_t)(ns / KT_NSEC), .tv_nsec = (long)(ns % KT_NSEC) };

	while (nanosleep(&rest, &rest) && errno == EINTR)
		;
}

/* Those of the time when it is called first: later this process may be pinned. */
static const cpu_set_t *allowed(void)
{
	static cpu_set_t set;
	static bool known;

	if (!known && sched_getaffinity(0, sizeof(set), &set))
		kt_inconclusive("sched_getaffinity: %s", strerror(errno));
	known = true;
	return &set;
}

int kt_cpus(void)
{
	return CPU_COUNT(allowed());
}

int kt_cpu(int number)
{
	number %= kt_cpus();
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, allowed()) && !number--)
			return cpu;
	return -1;
}

int kt_pin(int number)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(kt_cpu(number), &one);
	return sched_setaffinity(0, sizeof(one), &one) ? errno : 0;
}

int kt_only_cpu(pid_t task)
{
	cpu_set_t set;

	if (sched_getaffinity(task, sizeof(set), &set) || CPU_COUNT(&set) != 1)
		return -1;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &set))
			return cpu;
	return -1;
}

size_t kt_page(void)
{
	static size_t size;

	if (!size)
		size = (size_t)sysconf(_SC_PAGESIZE);
	return size;
}

bool kt_kernel_since(int major, int minor)
{
	struct utsname name;
	int has_major = 0, has_minor = 0;

	if (uname(&name) || sscanf(name.release, "%d.%d", &has_major, &has_minor) != 2)
		kt_inconclusive("the kernel does not tell its release");
	return has_major > major || (has_major == major && has_minor >= minor);
}

/* Is there a line with this word of its own? The file is read in pieces: kallsyms has megabytes. */
static int has_word(const char *path, const char *word, long long *value)
{
	FILE *file = fopen(path, "re");
	char line[512];
	int found = 0;

	if (!file)
		return -1;
	while (!found && fgets(line, sizeof(line), file)) {
		char *save = NULL, *part = strtok_r(line, " \t\n", &save);

		for (; part && !found; part = strtok_r(NULL, " \t\n", &save)) {
			if (!strcmp(part, word)) {
				char *next = strtok_r(NULL, " \t\n", &save);

				if (value && next)
					*value = strtoll(next, NULL, 10);
				found = 1;
			}
		}
	}
	fclose(file);
	return found;
}

int kt_per_vma_lock(void)
{
	return has_word("/proc/kallsyms", "lock_vma_under_rcu", NULL);
}

long long kt_vmstat(const char *name)
{
	long long value = -1;

	has_word("/proc/vmstat", name, &value);
	return value;
}

ssize_t kt_read_file(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got;

	if (fd < 0)
		return -1;
	while (length < size - 1 && (got = read(fd, buffer + length, size - 1 - length)) != 0) {
		if (got < 0 && errno != EINTR) {
			int error = errno;

			close(fd);
			errno = error;
			return -1;
		}
		length += got > 0 ? (size_t)got : 0;
	}
	buffer[length] = 0;
	close(fd);
	return (ssize_t)length;
}

int kt_write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), error = 0;

	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		error = errno ? errno : EIO;
	close(fd);
	return error;
}

unsigned long kt_max_map_count(void)
{
	char text[32] = "65530";

	kt_read_file("/proc/sys/vm/max_map_count", text, sizeof(text));
	return strtoul(text, NULL, 10);
}

char kt_task_state(int pid, int tid)
{
	char path[64], stat[512], *paren;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	if (kt_read_file(path, stat, sizeof(stat)) <= 0)
		return 0;
	/* its name may hold anything, parentheses too */
	paren = strrchr(stat, ')');
	return paren && paren[1] == ' ' ? paren[2] : 0;
}

void *kt_map(void *at, size_t length, int prot, int flags, int fd)
{
	void *got = mmap(at, length, prot, flags, fd, 0);

	if (got == MAP_FAILED)
		kt_inconclusive("mmap of %zu bytes: %s", length, strerror(errno));
	return got;
}

void *kt_shared(size_t size)
{
	return kt_map(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
}

int kt_name(void *at, size_t length, const char *name)
{
	return prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, length, name) ? errno : 0;
}

int kt_split(char *region, size_t pages, int even, int odd)
{
	for (size_t i = 0; i < pages; i++)
		if (mprotect(region + i * kt_page(), kt_page(), i % 2 ? odd : even))
			return errno;
	return 0;
}

pid_t kt_fork(void)
{
	pid_t parent = getpid(), child;

	fflush(stdout);
	child = fork();
	if (child < 0)
		kt_inconclusive("fork: %s", strerror(errno));
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent) /* it ended before the line above */
			_exit(1);
	}
	return child;
}

pid_t kt_fork_piped(int *to, int *from)
{
	int down[2], up[2];
	pid_t child;

	if (pipe2(down, O_CLOEXEC) || pipe2(up, O_CLOEXEC))
		kt_inconclusive("pipe2: %s", strerror(errno));
	child = kt_fork();
	*to = child ? down[1] : up[1];
	*from = child ? up[0] : down[0];
	close(child ? down[0] : up[0]);
	close(child ? up[1] : down[1]);
	return child;
}
