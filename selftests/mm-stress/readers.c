// SPDX-License-Identifier: GPL-2.0-only
#include "stress.h"

#include "maps.h"
#include "query.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BUFFER (4UL << 20)
#define CHUNK 65536
#define QUERIES 16

const char *const file_names[NR_FILES] = {
	[FILE_MAPS] = "maps", [FILE_SMAPS] = "smaps", [FILE_NUMA_MAPS] = "numa_maps",
	[FILE_SMAPS_ROLLUP] = "smaps_rollup", [FILE_QUERY] = "query",
};

/* A mapping that nobody changes, between two that no one can merge with it. */
static char *beacon, *own_text;
static char *buffers[NR_SIDES];

void readers_make(void)
{
	const size_t page = kt_page();

	beacon = kt_map(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	beacon += page;
	kt_map(beacon, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
	own_text = (char *)(uintptr_t)readers_make;
	for (int side = 0; side < NR_SIDES; side++)
		buffers[side] = kt_map(NULL, BUFFER, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

/* What is no whole record of its file. The contents are the business of maps-coherency. */
static void judge_text(int file, const char *text, size_t length)
{
	size_t at = 0;

	if (!length || text[length - 1] != '\n') {
		kt_fail_text(text + (length > 400 ? length - 400 : 0), length > 400 ? 400 : length,
			     "%s does not end with a line", file_names[file]);
		return;
	}
	while (at < length) {
		size_t line = (size_t)((char *)memchr(text + at, '\n', length - at) - (text + at));
		struct maps_line parsed;
		const char *why = "";

		if (file == FILE_NUMA_MAPS || (file != FILE_MAPS && !maps_is_header(text + at, line))) {
			if (!memchr(text + at, file == FILE_NUMA_MAPS ? ' ' : ':', line))
				kt_fail_text(text + at, line, "%s has a line of no kind", file_names[file]);
		} else if (maps_parse(text + at, line, &parsed, &why)) {
			kt_fail_text(text + at, line, "%s has a torn line: %s", file_names[file], why);
		}
		at += line + 1;
	}
}

static bool read_text(int file, int fd, char *buffer)
{
	size_t length = 0;
	ssize_t got = 0;

	while (length + CHUNK <= BUFFER && (got = read(fd, buffer + length, CHUNK)) != 0) {
		if (got > 0) {
			length += (size_t)got;
		} else if (errno != EINTR) {
			if (errno != ENOMEM)
				kt_fail("read of %s: %s", file_names[file], strerror(errno));
			return false;
		}
	}
	if (got) /* more than the buffer holds */
		return false;
	judge_text(file, buffer, length);
	return true;
}

static uint64_t ask_beacon(int fd)
{
	struct procmap_query query = { .size = sizeof(query), .query_addr = (uintptr_t)beacon };

	if (ioctl(fd, PROCMAP_QUERY, &query)) {
		if (errno == ENOTTY) {
			atomic_store(&shared->absent[FILE_QUERY], true);
			return 0;
		}
		if (errno != ENOMEM && errno != EINTR)
			kt_fail("query of a mapping that never changes: %s", strerror(errno));
		return 0;
	}
	if (query.vma_start != (uintptr_t)beacon || query.vma_end != (uintptr_t)beacon + kt_page())
		kt_fail("query of [%p, +1 page), which never changes: [%#" PRIx64 ", %#" PRIx64 ")",
			(void *)beacon, query.vma_start, query.vma_end);
	return 1;
}

/*
 * The name and the build ID are put into pages that are not there: a kernel that writes them while it
 * holds a lock of this address space would take mmap_lock below it.
 */
static uint64_t ask_whole(int fd, uintptr_t address, uint64_t flags, char *buffer)
{
	struct procmap_query query = { .size = sizeof(query), .query_flags = flags, .query_addr = address,
				       .vma_name_size = 256, .vma_name_addr = (uintptr_t)buffer,
				       .build_id_size = 64, .build_id_addr = (uintptr_t)(buffer + kt_page()) };

	madvise(buffer, 2 * kt_page(), MADV_DONTNEED);
	if (!ioctl(fd, PROCMAP_QUERY, &query))
		return 1;
	if (errno != ENOENT && errno != ENOMEM && errno != EINTR && errno != ENAMETOOLONG)
		kt_fail("query with name and build ID: %s", strerror(errno));
	return errno == ENOENT;
}

static uint64_t ask(int fd, char *buffer, struct kt_rng *rng)
{
	uint64_t answers = ask_beacon(fd);

	for (unsigned int i = 0; answers && i < QUERIES; i++) {
		const struct arena *arena = &arenas[kt_below(rng, nr_arenas)];
		unsigned int page = (unsigned int)kt_below(rng, arena->nr);

		answers += ask_beacon(fd);
		answers += ask_whole(fd, (uintptr_t)arena_page(arena, 0, page),
				     i & 1 ? PROCMAP_QUERY_COVERING_OR_NEXT_VMA : 0, buffer);
	}
	/* of a file on a disk: the build ID is read from it */
	return answers ? answers + ask_whole(fd, (uintptr_t)own_text, 0, buffer) : 0;
}

static void read_one(const char *proc, int file, int side, struct kt_rng *rng)
{
	char path[64];
	uint64_t done;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", proc, file == FILE_QUERY ? "maps" : file_names[file]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (errno == ENOENT && !access(proc, F_OK))
			atomic_store(&shared->absent[file], true);
		else if (errno != EINTR && errno != ENOMEM)
			kt_fail("open of %s: %s", path, strerror(errno));
		return;
	}
	/* the kernel writes into pages that are not there; all of them would cost more than the reading */
	madvise(buffers[side], CHUNK, MADV_DONTNEED);
	done = file == FILE_QUERY ? ask(fd, buffers[side], rng) : read_text(file, fd, buffers[side]);
	atomic_fetch_add_explicit(&shared->passes[side][file], done, memory_order_relaxed);
	close(fd);
}

void read_files(const char *proc, int side)
{
	struct kt_rng rng = { kt_seed() + 1000 + (uint64_t)side };

	while (!atomic_load_explicit(&shared->stop, memory_order_relaxed))
		for (int file = 0; file < NR_FILES; file++)
			if (!atomic_load(&shared->absent[file]))
				read_one(proc, file, side, &rng);
}
