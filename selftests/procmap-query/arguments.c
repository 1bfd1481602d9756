// SPDX-License-Identifier: GPL-2.0-only
/* What may be asked how: sizes, flags, pairs of buffers, pointers. */
#include "cases.h"
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define OFFSET_BEHIND(member) (offsetof(struct procmap_query, member) + sizeof(((struct procmap_query *)0)->member))

static struct areas areas;
static int maps;
static uint64_t calls;

/* A mapping with a name and without neighbours, and the answer about it. */
static struct procmap_query good;
static char *named;

/* Two pages that may be written and one that may not be touched. */
static char *room;

static int ask_at(void *query)
{
	calls++;
	return ioctl(maps, PROCMAP_QUERY, query) ? errno : 0;
}

static void begin(void)
{
	struct pm_ask ask = { 0 };

	named = kt_map(NULL, 3 * kt_page(), PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1);
	mprotect(named + kt_page(), kt_page(), PROT_READ);
	room = kt_map(NULL, 3 * kt_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mprotect(room + 2 * kt_page(), kt_page(), PROT_NONE);
	maps = pm_open(0);
	areas_settle(&areas, maps);
	ask.addr = (uintptr_t)named + kt_page();
	if (pm_ask(maps, &ask, &good) || good.vma_start != ask.addr || good.vma_end != ask.addr + kt_page())
		kt_inconclusive("the mapping that is asked for is not found");
}

/* A question about the mapping, without buffers. */
static struct procmap_query question(void)
{
	struct procmap_query query;

	memset(&query, 0, sizeof(query));
	query.size = sizeof(query);
	query.query_addr = good.query_addr;
	return query;
}

static void expect(int got, int wanted, const char *what, unsigned long long value)
{
	if (got != wanted)
		kt_fail("%s (%llu): %s, not %s", what, value, got ? strerrorname_np(got) : "no error",
			wanted ? strerrorname_np(wanted) : "success");
}

static void longer(size_t size)
{
	char *at = room + 2 * kt_page() - size;
	struct procmap_query query = question();

	memset(at, 0, size);
	query.size = size;
	memcpy(at, &query, sizeof(query));
	expect(ask_at(at), 0, "a longer size", size);
	memcpy(&query, at, sizeof(query));
	query.size = sizeof(query);
	if (memcmp(&query, &good, sizeof(query)))
		kt_fail("with a size of %zu another answer comes back", size);
	/* only far behind all that may ever be added */
	if (size <= 2048)
		return;
	memset(at, 0, size);
	query = question();
	query.size = size;
	memcpy(at, &query, sizeof(query));
	at[size - 1] = 1;
	expect(ask_at(at), E2BIG, "something unknown is asked", size);
}

void arguments_size(const void *arg)
{
	static const uint64_t small[] = { 0, 1, 4, 8, 15, 16, 23 };
	size_t least = OFFSET_BEHIND(query_addr);
	struct procmap_query query;

	(void)arg;
	begin();
	for (size_t i = 0; i < KT_ARRAY(small); i++) {
		query = question();
		query.size = small[i];
		expect(ask_at(&query), EINVAL, "size too small", small[i]);
	}
	/* an older, shorter structure: as much of the answer as it has room for, and not a byte more */
	for (size_t size = least; size <= sizeof(query); size++) {
		struct procmap_query whole = good;
		char *at = room + 2 * kt_page() - size;

		query = question();
		query.size = size;
		memcpy(at, &query, size);
		memset(room, 0x77, kt_page());
		whole.size = size;
		expect(ask_at(at), 0, "a shorter size", size);
		if (memcmp(at, &whole, size))
			kt_fail("with a size of %zu other bytes come back than the first of a whole answer", size);
		query = question();
		query.size = size;
		memset(room, 0x77, kt_page());
		memcpy(room, &query, size);
		expect(ask_at(room), 0, "a shorter size", size);
		for (size_t i = size; i < sizeof(query) + 64; i++)
			if (room[i] != 0x77) {
				kt_fail("with a size of %zu byte %zu was written", size, i);
				break;
			}
	}
	/* a newer, longer one, of whose news nothing is asked; its end is where nothing may be touched */
	for (size_t size = sizeof(query); size <= sizeof(query) + 100; size++)
		longer(size);
	longer(1000);
	longer(kt_page() / 2 + 1);
	longer(kt_page() - 1);
	longer(kt_page());
	for (int bits = 0; bits < 64; bits++) {
		memset(room, 0, 2 * kt_page());
		query = question();
		query.size = kt_page() + (1ULL << bits);
		if (query.size <= kt_page())
			continue;
		memcpy(room, &query, sizeof(query));
		expect(ask_at(room), E2BIG, "size beyond a page", query.size);
	}
	query = question();
	query.size = ~0ULL;
	expect(ask_at(&query), E2BIG, "size", query.size);
	kt_work("calls", calls, 300);
}

void arguments_flags(const void *arg)
{
	struct procmap_query query;

	(void)arg;
	begin();
	for (int bit = 6; bit < 64; bit++) {
		/* where a later kernel may have got new ones */
		if (bit < 16 && kt_kernel_since(7, 4))
			continue;
		query = question();
		query.query_flags = 1ULL << bit;
		expect(ask_at(&query), EINVAL, "unknown flag", (unsigned long long)bit);
		query = question();
		query.query_flags = 1ULL << bit | PM_FLAGS;
		expect(ask_at(&query), EINVAL, "unknown flag beside all known ones", (unsigned long long)bit);
	}
	query = question();
	query.query_flags = ~0ULL;
	expect(ask_at(&query), EINVAL, "all flags", 0);
	for (unsigned int flags = 0; flags <= PM_FLAGS; flags++) {
		int error, wanted;

		query = question();
		query.query_flags = flags;
		error = ask_at(&query);
		wanted = areas_find(&areas, good.query_addr, flags) ? 0 : ENOENT;
		expect(error, wanted, "flags", flags);
	}
	kt_work("calls", calls, 150);
}

void arguments_buffers(const void *arg)
{
	struct procmap_query query;

	(void)arg;
	begin();
	for (int where = 0; where < 2; where++) {
		uint64_t addr = where ? 1 : good.query_addr;	/* whether there is something to be found, or not */

		query = question();
		query.query_addr = addr;
		query.vma_name_size = 10;
		expect(ask_at(&query), EINVAL, "a name's size without its address", 0);
		query = question();
		query.query_addr = addr;
		query.vma_name_addr = (uintptr_t)room;
		expect(ask_at(&query), EINVAL, "a name's address without its size", 0);
		query = question();
		query.query_addr = addr;
		query.build_id_size = 10;
		expect(ask_at(&query), EINVAL, "a build-id's size without its address", 0);
		query = question();
		query.query_addr = addr;
		query.build_id_addr = (uintptr_t)room;
		expect(ask_at(&query), EINVAL, "a build-id's address without its size", 0);
		query = question();
		query.query_addr = addr;
		query.vma_name_size = 10;
		query.build_id_addr = (uintptr_t)room;
		expect(ask_at(&query), EINVAL, "one's size with the other's address", 0);
		/* only the upper half of an address or the lowest bit of a size is enough to be one */
		query = question();
		query.query_addr = addr;
		query.vma_name_addr = 1ULL << 32;
		expect(ask_at(&query), EINVAL, "a name's address of 1 << 32 without its size", 0);
		query = question();
		query.query_addr = addr;
		query.build_id_addr = 1ULL << 32;
		expect(ask_at(&query), EINVAL, "a build-id's address of 1 << 32 without its size", 0);
	}
	/* nothing to be found: that is said, whatever the buffers are, and none is written */
	memset(room, 0x77, kt_page());
	query = question();
	query.query_addr = 1;
	query.vma_name_size = 1;
	query.vma_name_addr = (uintptr_t)room;
	query.build_id_size = 1;
	query.build_id_addr = (uintptr_t)room + 1;
	expect(ask_at(&query), ENOENT, "nothing to be found, with small buffers", 0);
	if (room[0] != 0x77 || room[1] != 0x77)
		kt_fail("buffers were written although nothing was found");
	kt_work("calls", calls, 15);
}

/* Addresses at which nobody may write. */
static uint64_t bad_address(unsigned int which)
{
	switch (which) {
	case 0: return 8;
	case 1: return (uintptr_t)room + 2 * kt_page();
	case 2: return 1ULL << 63;
	case 3: return 0xffff800000000000ULL;
	case 4: return 0xffffffff81000000ULL;
	default: return ~0ULL - 4095;
	}
}

static void unaligned(void)
{
	for (size_t shift = 0; shift < 16; shift++) {
		struct procmap_query query = question();

		memcpy(room + shift, &query, sizeof(query));
		expect(ask_at(room + shift), 0, "at an odd address", shift);
		if (memcmp(room + shift, &good, sizeof(good)))
			kt_fail("another answer comes back at an odd address (%zu)", shift);
		/* across two pages, and up to the last byte that may be written */
		memcpy(room + kt_page() - 8 * shift, &query, sizeof(query));
		expect(ask_at(room + kt_page() - 8 * shift), 0, "across pages", shift);
		if (memcmp(room + kt_page() - 8 * shift, &good, sizeof(good)))
			kt_fail("another answer comes back across pages (%zu)", shift);
	}
}

static void bad_pointers(void)
{
	char *last = room + 2 * kt_page();
	struct procmap_query query = question();

	expect(ask_at(NULL), EFAULT, "no question", 0);
	for (unsigned int i = 0; i < 6; i++)
		expect(ask_at((void *)(uintptr_t)bad_address(i)), EFAULT, "a question at a bad address", i);
	for (size_t missing = 1; missing < sizeof(query); missing++) {
		memcpy(last - sizeof(query) + missing, &query, sizeof(query) - missing);
		expect(ask_at(last - sizeof(query) + missing), EFAULT, "a question that is not all there", missing);
	}
	memcpy(room, &query, sizeof(query));
	mprotect(room, kt_page(), PROT_READ);
	expect(ask_at(room), EFAULT, "a question that cannot be written", 0);
	mprotect(room, kt_page(), PROT_READ | PROT_WRITE);
	for (unsigned int i = 0; i < 6; i++) {
		query = question();
		query.vma_name_size = 300;
		query.vma_name_addr = bad_address(i);
		expect(ask_at(&query), EFAULT, "a name to a bad address", i);
	}
	query = question();
	query.vma_name_size = 300;
	query.vma_name_addr = (uintptr_t)last - 5;
	expect(ask_at(&query), EFAULT, "a name to where only its beginning fits", 0);
}

static void bad_id_pointers(void)
{
	unsigned char id[PM_ID_MAX];
	struct procmap_query query;

	if (!elf_build_id("/proc/self/exe", id))
		kt_inconclusive("this program was built without a build-id");
	for (unsigned int i = 0; i < 6; i++) {
		query = question();
		query.query_addr = (uintptr_t)&arguments_pointers;
		query.build_id_size = PM_ID_MAX;
		query.build_id_addr = bad_address(i);
		expect(ask_at(&query), EFAULT, "a build-id to a bad address", i);
		query.vma_name_size = 300;
		query.vma_name_addr = bad_address(i);
		expect(ask_at(&query), EFAULT, "both to bad addresses", i);
	}
}

void arguments_pointers(const void *arg)
{
	struct procmap_query query;

	(void)arg;
	begin();
	unaligned();
	bad_pointers();
	bad_id_pointers();
	/* and after all that it is as before */
	query = question();
	expect(ask_at(&query), 0, "after bad pointers", 0);
	if (memcmp(&query, &good, sizeof(good)))
		kt_fail("another answer comes back after bad pointers");
	kt_work("calls", calls, 150);
}

void arguments_command(const void *arg)
{
	static const unsigned long wrong[] = {
		_IO('f', 17), _IOWR('f', 17, uint64_t), _IOC(_IOC_READ | _IOC_WRITE, 'f', 17, 4000),
		_IOWR('f', 99, struct procmap_query), _IOWR('F', 17, struct procmap_query), _IOR('f', 17, struct procmap_query),
		_IOW('f', 17, struct procmap_query),
	};
	struct procmap_query query;

	(void)arg;
	begin();
	for (size_t i = 0; i < KT_ARRAY(wrong); i++) {
		query = question();
		calls++;
		expect(ioctl(maps, wrong[i], &query) ? errno : 0, ENOTTY, "another command", wrong[i]);
	}
	query = question();
	expect(ask_at(&query), 0, "the right command", PROCMAP_QUERY);
	kt_work("calls", calls, 8);
}
