// SPDX-License-Identifier: GPL-2.0-only
#include "stress.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_RANGE 32

struct arena arenas[MAX_ARENAS];
unsigned int nr_arenas;

static __thread struct {
	sigjmp_buf back;
	char *page;
	volatile sig_atomic_t armed;
} trap;

/* --- making --- */

struct arena *arena_reserve(const char *name, size_t length, size_t align, unsigned int nr_places)
{
	struct arena *arena = &arenas[nr_arenas];
	const size_t page = kt_page();

	if (nr_arenas == MAX_ARENAS || nr_places > MAX_PLACES)
		kt_inconclusive("no room for arena %s", name);
	*arena = (struct arena){ .name = name, .nr_places = nr_places, .length = length, .stride = page,
				 .nr = (unsigned int)(length / page), .id = nr_arenas, .fd = -1 };
	for (unsigned int i = 0; i < nr_places; i++) {
		char *at = kt_map(NULL, length + align + 2 * page, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

		at = (char *)(((uintptr_t)at + page + align - 1) / align * align);
		arena->place[i] = at;
	}
	nr_arenas++;
	return arena;
}

void arena_map(struct arena *arena, int prot, int flags, int fd)
{
	kt_map(arena->place[0], arena->length, prot, flags | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0), fd);
	arena->fd = fd;
}

int arena_memfd(size_t length)
{
	int fd = memfd_create("mm-stress", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)length))
		kt_inconclusive("a file in memory: %s", strerror(errno));
	return fd;
}

char *arena_page(const struct arena *arena, unsigned int place, unsigned int page)
{
	return arena->place[place] + page * arena->stride;
}

bool arena_kept(const struct arena *arena, unsigned int page)
{
	return arena->block && !(page / arena->block & 1);
}

uint64_t arena_tag(const struct arena *arena, unsigned int page, unsigned int which)
{
	struct kt_rng rng = { (uint64_t)arena->id << 40 | (uint64_t)page << 8 | which };

	return kt_random(&rng) | 1; /* never 0: that is an empty page's */
}

static size_t last_word(void)
{
	return kt_page() - sizeof(uint64_t);
}

void arena_fill(struct arena *arena)
{
	for (unsigned int i = 0; i < arena->nr; i++) {
		*(volatile uint64_t *)arena_page(arena, 0, i) = arena_tag(arena, i, 0);
		*(volatile uint64_t *)(arena_page(arena, 0, i) + last_word()) = arena_tag(arena, i, 0);
	}
}

void arena_range(const struct arena *arena, struct kt_rng *rng, bool not_kept, unsigned int *page,
		 unsigned int *count)
{
	unsigned int room;

	if (not_kept && arena->block) {
		unsigned int block = 2 * (unsigned int)kt_below(rng, arena->nr / arena->block / 2) + 1;
		unsigned int within = (unsigned int)kt_below(rng, arena->block);

		*page = block * arena->block + within;
		room = arena->block - within;
	} else {
		*page = (unsigned int)kt_below(rng, arena->nr);
		room = arena->nr - *page;
		if (room > MAX_RANGE)
			room = MAX_RANGE;
	}
	*count = 1 + (unsigned int)kt_below(rng, room);
}

/* --- judging --- */

/* Whose data a value is, if anybody's: the most telling thing about a wrong one. */
static const char *owner_of(uint64_t value, unsigned int *page)
{
	for (unsigned int i = 0; i < nr_arenas; i++)
		for (*page = 0; *page < arenas[i].nr; ++*page)
			for (unsigned int which = 0; which < 3; which++)
				if (value == arena_tag(&arenas[i], *page, which))
					return arenas[i].name;
	return NULL;
}

const char *arena_wrong(const struct arena *arena, unsigned int page, uint64_t value)
{
	static __thread char text[160];
	unsigned int other = 0;
	const char *owner;

	if (value == arena_tag(arena, page, 0))
		return NULL;
	if (!arena_kept(arena, page)) {
		if (!value && arena->may_be_empty)
			return NULL;
		if (arena->two_tags && value == arena_tag(arena, page, 1))
			return NULL;
	}
	if (!value) {
		snprintf(text, sizeof(text), "nothing, its data are lost");
	} else if ((owner = owner_of(value, &other))) {
		snprintf(text, sizeof(text), "data of %s, page %u", owner, other);
	} else {
		snprintf(text, sizeof(text), "%#" PRIx64 ", which nobody wrote", value);
	}
	return text;
}

static void on_trap(int number, siginfo_t *info, void *context)
{
	char *at = info->si_addr;

	(void)context;
	if (trap.armed && at >= trap.page && at < trap.page + kt_page())
		siglongjmp(trap.back, number);
	/* not ours: the same instruction traps again, and that ends the case */
	signal(number, SIG_DFL);
}

void catch_traps(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER };

	if (sigaction(SIGSEGV, &action, NULL) || sigaction(SIGBUS, &action, NULL))
		kt_inconclusive("sigaction: %s", strerror(errno));
}

/* One access; the signal that it got, or 0. */
static int touch(char *page, size_t offset, bool write, uint64_t *value)
{
	volatile uint64_t *word = (volatile uint64_t *)(page + offset);
	int number;

	trap.page = page;
	number = sigsetjmp(trap.back, 0);
	if (!number) {
		trap.armed = 1;
		atomic_signal_fence(memory_order_seq_cst);
		if (write)
			*word = *value;
		else
			*value = *word;
		atomic_signal_fence(memory_order_seq_cst);
	}
	trap.armed = 0;
	return number;
}

static bool legal_trap(const struct arena *arena, unsigned int page, bool write, int number)
{
	unsigned int flag;

	if (arena_kept(arena, page))
		flag = number == SIGSEGV ? KEPT_SEGV | (write ? KEPT_SEGV_WRITE : 0) : 0;
	else
		flag = number == SIGSEGV ? OTHER_SEGV : OTHER_BUS;
	return arena->legal & flag;
}

static void touch_and_judge(const struct arena *arena, unsigned int place, unsigned int page, size_t offset,
			    bool write, unsigned int which)
{
	uint64_t value = arena_tag(arena, page, which);
	int number = touch(arena_page(arena, place, page), offset, write, &value);
	const char *wrong;

	if (number) {
		atomic_fetch_add_explicit(&shared->traps, 1, memory_order_relaxed);
		if (!legal_trap(arena, page, write, number))
			kt_fail("%s of %s, page %u at %p (%s): signal %d, though it is mapped all the time",
				write ? "write" : "read", arena->name, page,
				(void *)arena_page(arena, place, page),
				arena_kept(arena, page) ? "kept" : "not kept", number);
	} else if (!write && (wrong = arena_wrong(arena, page, value))) {
		kt_fail("%s, page %u at %p (%s) holds %s", arena->name, page,
			(void *)arena_page(arena, place, page), arena_kept(arena, page) ? "kept" : "not kept",
			wrong);
	}
}

void arena_verify(const struct arena *arena)
{
	for (unsigned int page = 0; page < arena->nr; page++) {
		touch_and_judge(arena, arena->now, page, 0, false, 0);
		touch_and_judge(arena, arena->now, page, last_word(), false, 0);
	}
}

/* --- faulters --- */

static uint64_t own_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	/* one that had to wait and was tried again counts as major, though nothing was read from a disk */
	return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

void *faulter(void *seed)
{
	struct kt_rng rng = { (uint64_t)(uintptr_t)seed };
	uint64_t before = own_faults(), now;

	while (!atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
		for (unsigned int i = 0; i < 64; i++) {
			const struct arena *arena = &arenas[kt_below(&rng, nr_arenas)];
			unsigned int page = (unsigned int)kt_below(&rng, arena->nr);
			unsigned int place = (unsigned int)kt_below(&rng, arena->nr_places);
			uint64_t random = kt_random(&rng);

			touch_and_judge(arena, place, page, random & 1 ? 0 : last_word(), random & 2,
					arena->two_tags && !arena_kept(arena, page) && random & 4);
		}
		now = own_faults();
		atomic_fetch_add_explicit(&shared->faults, now - before, memory_order_relaxed);
		atomic_fetch_add_explicit(&shared->touches, 64, memory_order_relaxed);
		before = now;
	}
	return NULL;
}
