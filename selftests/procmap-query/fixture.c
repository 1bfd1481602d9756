// SPDX-License-Identifier: GPL-2.0-only
#include "fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARENA_PAGES 512
#define FILE_PAGES 64

void fixture_directory(struct fixture *fixture)
{
	static const char *const places[] = { "/tmp", "/dev/shm", "/run", "/var/tmp" };
	char path[PATH_MAX];
	struct statvfs vfs;
	struct statfs fs;

	for (size_t i = 0; i < KT_ARRAY(places); i++) {
		if (statvfs(places[i], &vfs) || (vfs.f_flag & (ST_NOEXEC | ST_RDONLY)))
			continue;
		snprintf(fixture->directory, sizeof(fixture->directory), "%s/procmap-query.XXXXXX", places[i]);
		if (!mkdtemp(fixture->directory))
			continue;
		/* maps has names without symbolic links */
		if (realpath(fixture->directory, path) && strlen(path) < sizeof(fixture->directory))
			strcpy(fixture->directory, path);
		fixture->is_tmpfs = !statfs(fixture->directory, &fs) && fs.f_type == TMPFS_MAGIC;
		return;
	}
	kt_inconclusive("no folder for files that may be executed");
}

void fixture_remove(struct fixture *fixture)
{
	DIR *directory = opendir(fixture->directory);
	struct dirent *entry;

	for (unsigned int i = 0; i < fixture->nr; i++) {
		munmap(fixture->piece[i].at, fixture->piece[i].length);
		if (fixture->piece[i].fd >= 0)
			close(fixture->piece[i].fd);
	}
	while (directory && (entry = readdir(directory)))
		unlinkat(dirfd(directory), entry->d_name, 0);
	if (directory)
		closedir(directory);
	if (rmdir(fixture->directory))
		kt_detail("%s stays: %s", fixture->directory, strerror(errno));
}

int fixture_file(struct fixture *fixture, const char *name, const void *bytes, size_t length)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", fixture->directory, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
	if (fd < 0 || pwrite(fd, bytes, length, 0) != (ssize_t)length)
		kt_inconclusive("%s: %s", path, strerror(errno));
	return fd;
}

bool fixture_can_name(void)
{
	void *at = kt_map(NULL, kt_page(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	bool can = !kt_name(at, kt_page(), "a name");

	munmap(at, kt_page());
	return can;
}

static void add(struct fixture *fixture, int prot, int flags, int fd, uint64_t offset, const char *name)
{
	struct piece *piece = &fixture->piece[fixture->nr++];
	struct stat stat;

	*piece = (struct piece){ .length = kt_page(), .prot = prot, .flags = flags, .fd = fd, .offset = offset };
	piece->file = fd >= 0 || (flags & MAP_SHARED);
	snprintf(piece->name, sizeof(piece->name), "%s", name);
	if (fd >= 0 && fixture->is_tmpfs && !fstat(fd, &stat)) {
		piece->inode = stat.st_ino;
		piece->major = major(stat.st_dev);
		piece->minor = minor(stat.st_dev);
	}
}

static int reopened(int fd, int how)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, how | O_CLOEXEC);
	if (fd < 0)
		kt_inconclusive("%s: %s", path, strerror(errno));
	return fd;
}

static void plain_pieces(struct fixture *fixture)
{
	size_t size = FILE_PAGES * kt_page();
	char *bytes = calloc(1, size), path[300];
	int fd;

	if (!bytes)
		kt_inconclusive("no memory");
	fd = fixture_file(fixture, "mapped", bytes, size);
	free(bytes);
	snprintf(path, sizeof(path), "%s/mapped", fixture->directory);
	for (int prot = 0; prot < 8; prot++) {
		int bits = (prot & 1 ? PROT_READ : 0) | (prot & 2 ? PROT_WRITE : 0) | (prot & 4 ? PROT_EXEC : 0);

		add(fixture, bits, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "");
		add(fixture, bits, MAP_SHARED | MAP_ANONYMOUS, -1, 0, "/dev/zero (deleted)");
		/* no two of them adjoin in the file, so that they are never one mapping */
		add(fixture, bits, MAP_PRIVATE, reopened(fd, O_RDWR), (size_t)(8 * prot + 1) * kt_page(), path);
		add(fixture, bits, MAP_SHARED, reopened(fd, O_RDWR), (size_t)(8 * prot + 4) * kt_page(), path);
	}
	/* shared for whoever looks, although the kernel need not write it back */
	add(fixture, PROT_READ, MAP_SHARED, reopened(fd, O_RDONLY), 0, path);
	/* behind 4 GiB, and where an offset needs more than 32 bits of pages */
	add(fixture, PROT_READ, MAP_PRIVATE, reopened(fd, O_RDONLY), (5ULL << 30) + kt_page(), path);
	add(fixture, PROT_READ, MAP_PRIVATE, fd, (1ULL << 52) + 3 * kt_page(), path);
}

static void odd_pieces(struct fixture *fixture)
{
	char path[400];
	int fd;

	fd = fixture_file(fixture, "two\nlines", "x", 1);
	snprintf(path, sizeof(path), "%s/two\nlines", fixture->directory);
	add(fixture, PROT_READ, MAP_PRIVATE, fd, 0, path);

	fd = fixture_file(fixture, "removed", "x", 1);
	snprintf(path, sizeof(path), "%s/removed", fixture->directory);
	unlink(path);
	strcat(path, " (deleted)");
	add(fixture, PROT_READ, MAP_PRIVATE, fd, 0, path);

	fd = memfd_create("in memory", MFD_CLOEXEC);
	if (fd >= 0)
		add(fixture, PROT_READ, MAP_SHARED, fd, 0, "/memfd:in memory (deleted)");
}

static void named_pieces(struct fixture *fixture)
{
	char longest[80], name[100];

	if (!fixture_can_name())
		return;
	memset(longest, 'n', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	snprintf(name, sizeof(name), "[anon:%s]", longest);
	add(fixture, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "[anon:short one]");
	add(fixture, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, name);
	add(fixture, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0, "[anon_shmem:shared one]");
}

static void give_name(const struct piece *piece)
{
	const char *begin = strchr(piece->name, ':');
	char name[100];
	int error;

	if (strncmp(piece->name, "[anon", 5))
		return;
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(begin + 1, "]"), begin + 1);
	error = kt_name(piece->at, piece->length, name);
	if (error)
		kt_inconclusive("naming memory: %s", strerror(error));
}

void fixture_map(struct fixture *fixture, uint64_t seed)
{
	struct kt_rng rng = { seed };
	char *at;

	plain_pieces(fixture);
	odd_pieces(fixture);
	named_pieces(fixture);
	for (unsigned int i = fixture->nr; i > 1; i--) {
		unsigned int other = (unsigned int)kt_below(&rng, i);
		struct piece swap = fixture->piece[i - 1];

		fixture->piece[i - 1] = fixture->piece[other];
		fixture->piece[other] = swap;
	}
	fixture->arena_pages = ARENA_PAGES;
	fixture->arena = kt_map(NULL, ARENA_PAGES * kt_page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	munmap(fixture->arena, ARENA_PAGES * kt_page());
	at = fixture->arena + kt_page();
	for (unsigned int i = 0; i < fixture->nr; i++) {
		struct piece *piece = &fixture->piece[i], *before = i ? piece - 1 : piece;
		size_t gap = kt_below(&rng, 3);

		/* two of a kind side by side would be one */
		if (!gap && before->prot == piece->prot && !((before->flags ^ piece->flags) & MAP_SHARED))
			gap = 1;
		piece->length = (1 + kt_below(&rng, 3)) * kt_page();
		piece->at = at + gap * kt_page();
		at = piece->at + piece->length;
		if (mmap(piece->at, piece->length, piece->prot, piece->flags | MAP_FIXED_NOREPLACE, piece->fd,
			 (off_t)piece->offset) != piece->at)
			kt_inconclusive("mmap of piece %u, %s: %s", i, piece->name, strerror(errno));
		give_name(piece);
	}
}

void target_order(struct target *target, enum order order)
{
	char word = (char)order;

	if (write(target->orders, &word, 1) != 1)
		kt_inconclusive("the target takes no orders: %s", strerror(errno));
}

bool target_done(struct target *target, double seconds)
{
	struct pollfd poll_fd = { .fd = target->answers, .events = POLLIN };
	char word;

	return poll(&poll_fd, 1, (int)(seconds * kt_factor() * 1000)) == 1 &&
	       read(target->answers, &word, 1) == 1;
}

static _Noreturn void be_the_target(int orders, int answers, const struct fixture *fixture)
{
	static char *const argv[] = { "procmap-query", "--list", NULL };
	char word;

	while (read(orders, &word, 1) == 1) {
		switch (word) {
		case ORDER_MPROTECT:
			for (unsigned int i = 0; i < fixture->nr; i++)
				mprotect(fixture->piece[i].at, fixture->piece[i].length, PROT_NONE);
			break;
		case ORDER_EXEC:
			if (dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO) >= 0)
				execv("/proc/self/exe", argv);
			_exit(1);
		default:
			_exit(0);
		}
		if (write(answers, &word, 1) != 1)
			break;
	}
	_exit(0);
}

void target_start(struct target *target, const struct fixture *fixture)
{
	target->pid = kt_fork_piped(&target->orders, &target->answers);
	if (!target->pid)
		be_the_target(target->answers, target->orders, fixture);
}

void target_end(struct target *target)
{
	kill(target->pid, SIGKILL);
	while (waitpid(target->pid, NULL, 0) < 0 && errno == EINTR)
		;
	close(target->orders);
	close(target->answers);
}
