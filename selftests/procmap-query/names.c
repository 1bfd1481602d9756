// SPDX-License-Identifier: GPL-2.0-only
/* Names: into buffers that are right, too short, too long, or not there. */
#include "cases.h"
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CANARY 0xc3
#define ROOM (128U << 10)

static struct fixture fixture;
static struct areas areas;
static int maps;
static uint64_t queries;

/* ROOM bytes, with a page behind them that nobody may write. */
static unsigned char *room;
/* Where the file of a long name is mapped. */
static void *mapped;

static void begin(void)
{
	room = kt_map(NULL, ROOM + kt_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mprotect(room + ROOM, kt_page(), PROT_NONE);
	fixture_directory(&fixture);
	fixture_map(&fixture, kt_seed());
	maps = pm_open(0);
	areas_settle(&areas, maps);
}

/*
 * Ask for a name into a buffer of so many bytes, that ends where nothing may be written, and look at what
 * is around it.
 */
static void try(const struct area *area, uint32_t size)
{
	unsigned char *buffer = room + ROOM - size, *low = size + 64 > ROOM ? room : buffer - 64;
	struct pm_ask ask = { .addr = area->start, .name = buffer, .name_size = size };
	size_t needs = area->name_length ? area->name_length + 1 : 0;
	struct procmap_query query;
	const char *field;
	int error;

	memset(low, CANARY, (size_t)(room + ROOM - low));
	error = pm_ask(maps, &ask, &query);
	queries++;
	for (unsigned char *p = low; p < buffer; p++) {
		if (*p != CANARY) {
			kt_fail("a name was written before the buffer");
			return;
		}
	}
	if (needs > size) {
		if (!pm_too_small(error))
			pm_wrong(&areas, area, &ask, &query, error, "the name does not fit, and that is not said");
		return;
	}
	field = error ? "everything" : pm_differs(area, &ask, &query);
	if (field) {
		char what[80];

		snprintf(what, sizeof(what), "with room for %u bytes, wrong in %s", size, field);
		pm_wrong(&areas, area, &ask, &query, error, what);
		return;
	}
	for (size_t i = needs; i < size; i++) {
		if (buffer[i] != CANARY) {
			kt_fail("byte %zu was written, behind a name of %zu", i, needs);
			return;
		}
	}
}

/* The largest size that can be said. It is the caller's duty to have that much. */
static void try_largest(const struct area *area)
{
	void *all = mmap(NULL, 1ULL << 32, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			 -1, 0);
	struct pm_ask ask = { .addr = area->start, .name = all, .name_size = UINT32_MAX };
	struct procmap_query query;
	const char *field;
	int error;

	if (all == MAP_FAILED)
		return;
	error = pm_ask(maps, &ask, &query);
	queries++;
	field = error ? "everything" : pm_differs(area, &ask, &query);
	if (field)
		pm_wrong(&areas, area, &ask, &query, error, "wrong with a buffer of 4 GiB");
	munmap(all, 1ULL << 32);
}

void names_buffers(const void *arg)
{
	uint64_t names = 0;

	(void)arg;
	begin();
	for (size_t i = 0; i < areas.nr; i++) {
		uint32_t needs = (uint32_t)areas.area[i].name_length + 1;
		const uint32_t sizes[] = { needs,	  needs - 1, 1,	       2,   needs + 1,
					   needs / 2, PATH_MAX,	 PATH_MAX + 1, ROOM };

		if (!areas.area[i].name_length)
			continue;
		for (size_t j = 0; j < KT_ARRAY(sizes); j++)
			if (sizes[j])
				try(&areas.area[i], sizes[j]);
		try_largest(&areas.area[i]);
		names++;
	}
	fixture_remove(&fixture);
	kt_work("queries", queries, 200);
	kt_work("names", names, 20);
}

void names_none(const void *arg)
{
	uint64_t nameless = 0;

	(void)arg;
	begin();
	for (size_t i = 0; i < areas.nr; i++) {
		struct pm_ask ask = { .addr = areas.area[i].start };
		struct procmap_query query;
		const char *field;
		int error = pm_ask(maps, &ask, &query);

		/* whether it has a name or not: none was asked for */
		queries++;
		field = error ? "everything" : pm_differs(&areas.area[i], &ask, &query);
		if (field)
			pm_wrong(&areas, &areas.area[i], &ask, &query, error, "wrong without a buffer for the name");
		if (areas.area[i].name_length)
			continue;
		try(&areas.area[i], 1);
		try(&areas.area[i], PATH_MAX);
		nameless++;
	}
	fixture_remove(&fixture);
	kt_work("queries", queries, 50);
	kt_work("without a name", nameless, 8);
}

/* A file whose path has exactly so many bytes, through as many folders as that takes. */
static int make_long(size_t wanted, size_t length)
{
	char part[256];
	size_t left = wanted - length - 1;
	int fd = -1;

	memset(part, 'l', sizeof(part));
	if (left <= 255) {
		part[left] = 0;
		fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd >= 0 && (ftruncate(fd, (off_t)kt_page()) ||
				mmap(mapped, kt_page(), PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED))
			kt_inconclusive("mmap of %s: %s", part, strerror(errno));
		return fd;
	}
	part[200] = 0;
	if (mkdir(part, 0700) || chdir(part))
		kt_inconclusive("a path of %zu bytes: %s", wanted, strerror(errno));
	fd = make_long(wanted, length + 1 + strlen(part));
	if (chdir(".."))
		kt_inconclusive("chdir: %s", strerror(errno));
	return fd;
}

static void remove_long(void)
{
	char part[256];

	for (size_t length = 255; length; length--) {
		memset(part, 'l', length);
		part[length] = 0;
		if (!unlink(part))
			return;
		if (!chdir(part)) {
			remove_long();
			if (chdir("..") || rmdir(part))
				kt_inconclusive("removing a long path: %s", strerror(errno));
			return;
		}
	}
}

void names_long(const void *arg)
{
	static const size_t lengths[] = { 255, 256, 1000, 2047, 2048, 4000, PATH_MAX - 2, PATH_MAX - 1 };

	(void)arg;
	begin();
	mapped = kt_map(NULL, kt_page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (size_t i = 0; i < KT_ARRAY(lengths); i++) {
		const struct area *area;
		int fd;

		if (chdir(fixture.directory))
			kt_inconclusive("%s: %s", fixture.directory, strerror(errno));
		fd = make_long(lengths[i], strlen(fixture.directory));
		if (fd < 0)
			kt_inconclusive("a path of %zu bytes: %s", lengths[i], strerror(errno));
		areas_settle(&areas, maps);
		area = areas_find(&areas, (uintptr_t)mapped, 0);
		if (!area || area->name_length != lengths[i]) {
			kt_fail("the text of maps has a name of %zu bytes, it is of %zu",
				area ? area->name_length : 0, lengths[i]);
			continue;
		}
		try(area, (uint32_t)lengths[i] + 1);
		try(area, (uint32_t)lengths[i]);
		try(area, 1);
		try(area, PATH_MAX);
		try(area, PATH_MAX + 1);
		try(area, ROOM);
		remove_long();
		close(fd);
	}
	fixture_remove(&fixture);
	kt_work("queries", queries, 6 * KT_ARRAY(lengths));
}
