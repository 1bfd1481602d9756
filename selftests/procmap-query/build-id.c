// SPDX-License-Identifier: GPL-2.0-only
/* Build-ids: of this program, of files made for it, and of what has none. */
#include "cases.h"
#include "fixture.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CANARY 0xc3

static struct fixture fixture;
static struct areas areas;
static int maps;
static uint64_t queries, found, refused, without;

static void begin(void)
{
	fixture_directory(&fixture);
	maps = pm_open(0);
}

static void end(void)
{
	fixture_remove(&fixture);
	kt_work("queries", queries, 2);
	kt_work("found", found, 0);
	kt_work("refused", refused, 0);
	kt_work("without", without, 0);
}

/*
 * Ask for the id of what is at an address, with room for so many bytes, at the end of what may be written.
 * id_length 0: there is none.
 */
static void try(const char *what, uint64_t addr, uint32_t size, const unsigned char *id, size_t id_length,
		bool with_name)
{
	static unsigned char *room;
	static char name[PATH_MAX];
	struct pm_ask ask = { .addr = addr, .id_size = size };
	unsigned char *low;
	struct procmap_query query;
	int error;

	if (!room) {
		room = kt_map(NULL, 2 * kt_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		mprotect(room + kt_page(), kt_page(), PROT_NONE);
	}
	low = room + kt_page() - size;
	memset(room, CANARY, kt_page());
	ask.id = low;
	if (with_name) {
		ask.name = name;
		ask.name_size = sizeof(name);
	}
	error = pm_ask(maps, &ask, &query);
	queries++;
	if (low > room && low[-1] != CANARY)
		kt_fail("%s: something was written before the buffer", what);
	if (id_length > size) {
		refused++;
		if (!pm_too_small(error))
			kt_fail("%s: an id of %zu bytes for a buffer of %u: %s", what, id_length, size,
				error ? strerror(error) : "no error");
		return;
	}
	if (error) {
		kt_fail("%s: %s", what, strerror(error));
		return;
	}
	found += id_length > 0;
	without += id_length == 0;
	if (query.build_id_size != id_length)
		kt_fail("%s: build_id_size is %u, it has %zu bytes", what, query.build_id_size, id_length);
	else if (memcmp(low, id, id_length))
		kt_fail("%s: another build-id than it has", what);
	for (size_t i = id_length; i < size; i++) {
		if (low[i] != CANARY) {
			kt_fail("%s: byte %zu was written, behind an id of %zu", what, i, id_length);
			break;
		}
	}
	/* what has an id is a file, and has a name */
	if (with_name && id_length && (!query.vma_name_size || strnlen(name, sizeof(name)) + 1 != query.vma_name_size))
		kt_fail("%s: no name beside the build-id", what);
}

static void try_sizes(const char *what, uint64_t addr, const unsigned char *id, size_t id_length)
{
	for (uint32_t size = 1; size <= 24; size++)
		try(what, addr, size, id, id_length, size % 2);
	try(what, addr, PM_ID_MAX, id, id_length, true);
	try(what, addr, (uint32_t)kt_page(), id, id_length, false);
}

void build_id_own(const void *arg)
{
	unsigned char id[PM_ID_MAX];
	size_t length = elf_build_id("/proc/self/exe", id);
	uint64_t segments = 0;
	struct stat stat_of;

	(void)arg;
	if (!length || stat("/proc/self/exe", &stat_of))
		kt_inconclusive("this program was built without a build-id");
	begin();
	areas_settle(&areas, maps);
	for (size_t i = 0; i < areas.nr; i++) {
		const struct area *area = &areas.area[i];

		if (area->inode != stat_of.st_ino)
			continue;
		try_sizes("this program", area->start, id, length);
		try_sizes("this program", area->end - 1, id, length);
		segments++;
	}
	end();
	kt_work("segments", segments, 2);
}

/* Map a file that was made, ask, and take it away. */
static void try_file(struct elf *elf, int fd, size_t id_length)
{
	char path[512];
	void *at = kt_map(NULL, kt_page(), PROT_READ, MAP_PRIVATE, fd);

	try_sizes(elf->name, (uintptr_t)at, elf->id, id_length);
	munmap(at, kt_page());
	close(fd);
	snprintf(path, sizeof(path), "%s/%s", fixture.directory, elf->name);
	unlink(path);
}

void build_id_lengths(const void *arg)
{
	struct kt_rng rng = { kt_seed() };

	(void)arg;
	begin();
	for (size_t length = 1; length <= 20; length++) {
		struct elf elf = { .name = "id", .id_length = length };
		int fd = elf_file(&fixture, &elf, &rng);

		try_file(&elf, fd, length);
	}
	end();
}

void build_id_places(const void *arg)
{
	size_t page = kt_page();
	struct elf near[] = {
		{ .name = "32 bits", .id_length = 20, .is_32_bit = true },
		{ .name = "behind other notes", .id_length = 20, .other_notes = 6 },
		{ .name = "in the second segment of notes", .id_length = 20, .other_notes = 3, .split_notes = true },
		{ .name = "behind other segments", .id_length = 20, .other_segments = 6 },
		{ .name = "32 bits, behind all", .id_length = 16, .is_32_bit = true, .other_segments = 5,
		  .other_notes = 2, .split_notes = true },
	}, far[] = {
		{ .name = "in the second page", .id_length = 20, .note_at = page + 16 },
		{ .name = "behind many pages", .id_length = 20, .note_at = 160000 },
		{ .name = "its header across pages", .id_length = 20, .note_at = page - 8 },
		{ .name = "itself across pages", .id_length = 20, .note_at = page - 28 },
		{ .name = "its owner across pages", .id_length = 20, .note_at = page - 12 },
	};
	struct kt_rng rng = { kt_seed() };

	(void)arg;
	begin();
	for (size_t i = 0; i < KT_ARRAY(near); i++)
		try_file(&near[i], elf_file(&fixture, &near[i], &rng), near[i].id_length);
	/* before, only what the first page has was found */
	for (size_t i = 0; i < KT_ARRAY(far) && kt_kernel_since(6, 12); i++)
		try_file(&far[i], elf_file(&fixture, &far[i], &rng), far[i].id_length);
	end();
}

/* A file of these bytes has none. */
static void try_bytes(const char *what, const void *bytes, size_t length)
{
	struct elf elf = { .name = what };

	try_file(&elf, fixture_file(&fixture, what, bytes, length), 0);
}

void build_id_none(const void *arg)
{
	struct elf empty = { .name = "no note" }, others = { .name = "other notes only", .other_notes = 4 };
	static unsigned char bytes[1024];
	struct kt_rng rng = { kt_seed() };
	Elf64_Ehdr header = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			      .e_type = ET_EXEC, .e_phoff = sizeof(header), .e_phentsize = sizeof(Elf64_Phdr),
			      .e_phnum = 1 };
	Elf64_Phdr beyond = { .p_type = PT_NOTE, .p_offset = 1 << 20, .p_filesz = 36 };
	void *at;

	(void)arg;
	begin();
	try_file(&empty, elf_file(&fixture, &empty, &rng), 0);
	try_file(&others, elf_file(&fixture, &others, &rng), 0);
	try_bytes("no bytes", bytes, 0);
	try_bytes("text", "#!/bin/sh\n", 10);
	try_bytes("a page of zeros", bytes, sizeof(bytes));
	try_bytes("four bytes of ELF", header.e_ident, 4);
	memcpy(bytes, &header, sizeof(header));
	try_bytes("a header without segments behind it", bytes, sizeof(header));
	memcpy(bytes + sizeof(header), &beyond, sizeof(beyond));
	try_bytes("notes behind the end of the file", bytes, sizeof(bytes));

	at = kt_map(NULL, kt_page(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	try_sizes("anonymous memory", (uintptr_t)at, NULL, 0);
	munmap(at, kt_page());
	at = kt_map(NULL, kt_page(), PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1);
	try_sizes("shared memory", (uintptr_t)at, NULL, 0);
	munmap(at, kt_page());
	end();
	kt_work("files without one", without, 8 * 26);
}
