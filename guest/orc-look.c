// SPDX-License-Identifier: GPL-2.0-only
/*
 * orc-look: what the guest's kernel and processes are like, read in one go and without a fork.
 *
 *	orc-look		the state, to be held against an earlier or a later one
 *	orc-look --tasks	the processes only, each thread with its kernel stack
 *
 * Sections begin with "@ NAME". What cannot be read is left out. No file is touched that takes a lock of a
 * process's address space (cmdline, maps …): the one who hangs may hold it.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	PATH = 320,
	KERNEL_THREAD = 0x00200000, /* PF_KTHREAD */
	TASKS_MAX = 4096,
	CHAIN_MAX = 16,
};

struct task {
	int parent;
	unsigned int flags;
	char state;
	char comm[64];
};

/* A small file; false where it cannot be read. The text ends with a NUL and no newline. */
static bool slurp(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	size_t used = 0;
	ssize_t n;

	if (fd < 0)
		return false;
	while (used < size - 1 && (n = read(fd, text + used, size - 1 - used)) > 0)
		used += (size_t)n;
	close(fd);
	while (used && text[used - 1] == '\n')
		used--;
	text[used] = '\0';
	return used > 0;
}

static void show(const char *name, const char *path)
{
	static char text[1 << 17];

	if (slurp(path, text, sizeof(text)))
		printf("@ %s\n%s\n", name, text);
}

static bool read_task(const char *folder, struct task *t)
{
	char path[PATH], text[512], *open_paren, *after;
	size_t length;

	snprintf(path, sizeof(path), "%.200s/stat", folder);
	if (!slurp(path, text, sizeof(text)))
		return false;
	open_paren = strchr(text, '(');
	after = strrchr(text, ')');
	if (!open_paren || !after || sscanf(after + 1, " %c %d %*d %*d %*d %*d %u", &t->state, &t->parent, &t->flags) != 3)
		return false;
	length = (size_t)(after - open_paren - 1);
	if (length >= sizeof(t->comm))
		length = sizeof(t->comm) - 1;
	/* the name is the process's own choice */
	for (size_t i = 0; i < length; i++)
		t->comm[i] = open_paren[1 + i] > ' ' && open_paren[1 + i] < 127 ? open_paren[1 + i] : '?';
	t->comm[length] = '\0';
	return true;
}

/* This process and those it descends from: they are there because somebody looks. */
static int own_chain(int *chain)
{
	struct task t;
	char folder[64];
	int pid = getpid(), n = 0;

	while (pid > 1 && n < CHAIN_MAX) {
		chain[n++] = pid;
		snprintf(folder, sizeof(folder), "/proc/%d", pid);
		if (!read_task(folder, &t))
			break;
		pid = t.parent;
	}
	return n;
}

static void show_stack(const char *folder)
{
	char path[PATH];
	static char text[1 << 14];

	snprintf(path, sizeof(path), "%.200s/stack", folder);
	if (!slurp(path, text, sizeof(text)))
		return;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		printf("  %.200s\n", line);
	snprintf(path, sizeof(path), "%.200s/syscall", folder);
	if (slurp(path, text, sizeof(text)))
		printf("  syscall: %.200s\n", text);
}

static void show_threads(const char *pid, bool stacks)
{
	char folder[64], path[PATH], wchan[128];
	struct dirent *e;
	struct task t;
	DIR *threads;

	snprintf(folder, sizeof(folder), "/proc/%.20s/task", pid);
	threads = opendir(folder);
	if (!threads)
		return;
	while ((e = readdir(threads))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "%s/%.20s", folder, e->d_name);
		if (!read_task(path, &t) || t.flags & KERNEL_THREAD)
			continue;
		snprintf(path, sizeof(path), "%s/%.20s/wchan", folder, e->d_name);
		if (!slurp(path, wchan, sizeof(wchan)))
			strcpy(wchan, "0");
		printf("%s %s %c %.100s %s\n", pid, e->d_name, t.state, wchan, t.comm);
		snprintf(path, sizeof(path), "%s/%.20s", folder, e->d_name);
		if (stacks || t.state == 'D')
			show_stack(path);
	}
	closedir(threads);
}

static void show_tasks(bool stacks)
{
	int chain[CHAIN_MAX], n = own_chain(chain), shown = 0;
	DIR *proc = opendir("/proc");
	struct dirent *e;

	puts("@ tasks");
	while (proc && shown < TASKS_MAX && (e = readdir(proc))) {
		bool mine = false;
		int pid = atoi(e->d_name);

		for (int i = 0; i < n; i++)
			mine = mine || chain[i] == pid;
		if (pid <= 1 || mine)
			continue;
		show_threads(e->d_name, stacks);
		shown++;
	}
	if (proc)
		closedir(proc);
}

static void show_huge_pages(void)
{
	static const char *const names[] = { "nr_hugepages", "free_hugepages", "resv_hugepages" };
	DIR *sizes = opendir("/sys/kernel/mm/hugepages");
	struct dirent *e;

	if (!sizes)
		return;
	puts("@ hugepages");
	while ((e = readdir(sizes))) {
		char path[PATH], text[32];

		if (e->d_name[0] == '.')
			continue;
		printf("%.60s", e->d_name);
		for (int i = 0; i < 3; i++) {
			snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/%.60s/%s", e->d_name, names[i]);
			printf(" %s", slurp(path, text, sizeof(text)) ? text : "0");
		}
		putchar('\n');
	}
	closedir(sizes);
}

/* What may rightly hold pages after all processes are gone: files of hugetlbfs, segments of System V. */
static void show_holders(void)
{
	DIR *folder = opendir("/dev/hugepages");
	static char text[1 << 16];
	long files = 0, segments = 0;

	while (folder && readdir(folder))
		files++;
	if (folder)
		closedir(folder);
	if (slurp("/proc/sysvipc/shm", text, sizeof(text)))
		for (const char *p = text; (p = strchr(p, '\n')); p++)
			segments++;
	printf("@ holders\n%ld %ld\n", files, segments);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--tasks")) {
		show_tasks(true);
		return fflush(stdout) ? 1 : 0;
	}
	if (argc != 1) {
		fputs("usage: orc-look [--tasks]\n", stderr);
		return 2;
	}
	{
		/* counters are kept on each CPU, and summed up now and then */
		int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);

		if (fd >= 0) {
			if (write(fd, "1\n", 2) < 0)
				puts("@ refresh\nfailed");
			close(fd);
		}
	}
	show("tainted", "/proc/sys/kernel/tainted");
	show("lockdep", "/proc/lockdep_stats");
	show("vmstat", "/proc/vmstat");
	show_huge_pages();
	show_holders();
	show_tasks(false);
	return fflush(stdout) ? 1 : 0;
}
