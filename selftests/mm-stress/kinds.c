// SPDX-License-Identifier: GPL-2.0-only
/* What changes the address space. Each kind has arenas of its own and knows what data may be in them. */
#include "stress.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define FORK_MARK 2

static struct arena *anonymous(const char *name, unsigned int pages, unsigned int block)
{
	struct arena *arena = arena_reserve(name, pages * kt_page(), kt_page(), 1);

	arena_map(arena, RW, MAP_PRIVATE, -1);
	arena->block = block;
	arena->may_be_empty = arena->two_tags = block < pages;
	return arena;
}

static struct arena *of_file(const char *name, size_t length, size_t align, int flags, int fd,
			     unsigned int block)
{
	struct arena *arena = arena_reserve(name, length, align, 1);

	arena_map(arena, RW, flags, fd);
	arena->block = block;
	arena->may_be_empty = arena->two_tags = block < arena->nr;
	return arena;
}

/* A call on a random range of an arena; of the pages that are not kept, if so. */
struct range {
	char *start;
	size_t length;
};

static struct range some(const struct arena *arena, struct kt_rng *rng, bool not_kept)
{
	unsigned int page, count;

	arena_range(arena, rng, not_kept, &page, &count);
	return (struct range){ arena_page(arena, arena->now, page), count * kt_page() };
}

static bool map_again(struct range range)
{
	return mmap(range.start, range.length, RW, PRIVATE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static bool advise(struct range range, int advice)
{
	return !madvise(range.start, range.length, advice);
}

/* --- munmap --- */

static const char *munmap_make(struct kind *kind)
{
	kind->arena[0] = anonymous("munmap", 128, 8);
	kind->arena[0]->legal = OTHER_SEGV;
	arena_fill(kind->arena[0]);
	return NULL;
}

static bool munmap_change(struct kind *kind, struct kt_rng *rng)
{
	struct range range = some(kind->arena[0], rng, true);
	bool done = !munmap(range.start, range.length);

	/* sometimes a hole stays until the same range comes up again */
	if (kt_below(rng, 8))
		done = map_again(range) && done;
	return done;
}

static void munmap_finish(struct kind *kind)
{
	const struct arena *arena = kind->arena[0];

	for (unsigned int page = 0; page < arena->nr; page++)
		if (!arena_kept(arena, page))
			map_again((struct range){ arena_page(arena, 0, page), kt_page() });
}

/* --- MADV_DONTNEED --- */

static const char *dontneed_make(struct kind *kind)
{
	const size_t length = 128 * kt_page();

	kind->arena[0] = anonymous("dontneed", 128, 8);
	arena_fill(kind->arena[0]);
	/* of a shared file only the mapping is dropped, never the data */
	kind->arena[1] = of_file("dontneed-shared", length, kt_page(), MAP_SHARED, arena_memfd(length), 128);
	arena_fill(kind->arena[1]);
	return NULL;
}

static bool dontneed_change(struct kind *kind, struct kt_rng *rng)
{
	if (kt_below(rng, 2))
		return advise(some(kind->arena[1], rng, false), MADV_DONTNEED);
	return advise(some(kind->arena[0], rng, true), kt_below(rng, 4) ? MADV_DONTNEED : MADV_FREE);
}

/* --- MADV_COLLAPSE --- */

static size_t huge_size(void)
{
	char text[32];

	if (kt_read_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text, sizeof(text)) <= 0)
		return 0;
	return strtoul(text, NULL, 10);
}

static const char *collapse_make(struct kind *kind)
{
	const size_t huge = huge_size();
	struct arena *arena;

	if (!huge)
		return "the kernel has no transparent huge pages";
	if (huge > 32UL << 20)
		return "a huge page is larger than what the guest has to spare";
	arena = kind->arena[0] = arena_reserve("collapse", 2 * huge, huge, 1);
	arena_map(arena, RW, MAP_PRIVATE, -1);
	arena->block = arena->nr / 16;
	arena->may_be_empty = arena->two_tags = true;
	arena->legal = KEPT_SEGV_WRITE | OTHER_SEGV; /* while it is read-only; what is not kept is not told apart */
	arena_fill(arena);
	kind->arena[1] = of_file("collapse-file", huge, huge, MAP_SHARED, arena_memfd(huge),
				 (unsigned int)(huge / kt_page() / 8));
	arena_fill(kind->arena[1]);
	return NULL;
}

static bool collapse_anonymous(struct kind *kind, struct kt_rng *rng)
{
	const struct arena *arena = kind->arena[0];
	struct range half = { arena->place[0] + kt_below(rng, 2) * (arena->length / 2), arena->length / 2 };
	struct range range;

	if (advise(half, MADV_COLLAPSE)) {
		atomic_fetch_add(&kind->nr_special, 1);
		return true;
	}
	range = some(arena, rng, false);
	return !mprotect(range.start, range.length, PROT_READ) && !mprotect(range.start, range.length, RW);
}

static bool collapse_change(struct kind *kind, struct kt_rng *rng)
{
	const struct arena *file = kind->arena[1];
	struct range range;

	switch (kt_below(rng, 8)) {
	case 0: return collapse_anonymous(kind, rng);
	/* a file's collapse takes page tables away under those who use them; not every kernel grants it */
	case 1: return advise((struct range){ file->place[0], file->length }, MADV_COLLAPSE);
	case 2:
		range = some(file, rng, true);
		return !fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  range.start - file->place[0], (off_t)range.length);
	case 3: return advise(some(file, rng, false), MADV_DONTNEED);
	case 4:
		range = some(kind->arena[0], rng, false);
		return !mprotect(range.start, range.length, PROT_READ) &&
		       !mprotect(range.start, range.length, RW);
	default: return advise(some(kind->arena[0], rng, true), MADV_DONTNEED);
	}
}

static void make_writable(struct kind *kind)
{
	const struct arena *arena = kind->arena[0];

	if (mprotect(arena->place[0], arena->length, RW))
		kt_inconclusive("%s: mprotect of the whole: %s", arena->name, strerror(errno));
}

/* --- truncate --- */

static const char *truncate_make(struct kind *kind)
{
	const size_t length = 128 * kt_page();
	int fd = arena_memfd(length);

	kind->arena[0] = of_file("truncate-shared", length, kt_page(), MAP_SHARED, fd, 64);
	arena_fill(kind->arena[0]);
	kind->arena[1] = of_file("truncate-private", length, kt_page(), MAP_PRIVATE, fd, 64);
	kind->arena[1]->id = kind->arena[0]->id;
	kind->arena[0]->legal = kind->arena[1]->legal = OTHER_BUS;
	return NULL;
}

static bool truncate_change(struct kind *kind, struct kt_rng *rng)
{
	const struct arena *arena = kind->arena[0];
	struct range range = some(arena, rng, true);
	off_t at = range.start - arena->place[0];

	if (!kt_below(rng, 4))
		return !fallocate(arena->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)range.length);
	return !ftruncate(arena->fd, at) && !ftruncate(arena->fd, (off_t)arena->length);
}

static void truncate_finish(struct kind *kind)
{
	if (ftruncate(kind->arena[0]->fd, (off_t)kind->arena[0]->length))
		kt_inconclusive("truncate: %s", strerror(errno));
}

/* --- mremap --- */

static struct arena *movable(const char *name, unsigned int block)
{
	/* what one page table maps: it is moved whole, not entry by entry */
	const size_t table = kt_page() * (kt_page() / sizeof(uint64_t));
	struct arena *arena = arena_reserve(name, 2 * table, table, 2);

	kt_map(arena->place[0], arena->length, RW, PRIVATE | MAP_FIXED | MAP_NORESERVE, -1);
	/* few pages far apart must not become huge ones: a guest has not that much memory */
	madvise(arena->place[0], arena->length, MADV_NOHUGEPAGE);
	arena->nr = 64;
	arena->stride = arena->length / arena->nr;
	arena->block = block;
	arena->may_be_empty = arena->two_tags = block < arena->nr;
	arena->legal = KEPT_SEGV | OTHER_SEGV;
	arena_fill(arena);
	return arena;
}

static const char *mremap_make(struct kind *kind)
{
	kind->arena[0] = movable("mremap", 64);
	kind->arena[1] = movable("mremap-dontunmap", 0);
	return NULL;
}

static bool move(struct arena *arena, int flags)
{
	unsigned int from = arena->now;

	if (mremap(arena->place[from], arena->length, arena->length, MREMAP_MAYMOVE | MREMAP_FIXED | flags,
		   arena->place[!from]) == MAP_FAILED)
		return false;
	arena->now = !from;
	return true;
}

static bool mremap_change(struct kind *kind, struct kt_rng *rng)
{
	switch (kt_below(rng, 4)) {
	case 0: return advise(some(kind->arena[1], rng, true), MADV_DONTNEED);
	case 1: return move(kind->arena[1], kt_below(rng, 2) ? MREMAP_DONTUNMAP : 0);
	default:
		if (!move(kind->arena[0], 0))
			return false;
		atomic_fetch_add(&kind->nr_special, 1);
		return true;
	}
}

/* --- fork --- */

static const char *fork_make(struct kind *kind)
{
	kind->arena[0] = anonymous("fork", 64, 8);
	kind->arena[0]->may_be_empty = false;
	arena_fill(kind->arena[0]);
	return NULL;
}

/* In the child: it sees what its parent had, and nothing of what it writes is its parent's. */
static _Noreturn void be_the_child(const struct arena *arena)
{
	const char *wrong;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned int page = 0; page < arena->nr; page++) {
		wrong = arena_wrong(arena, page, *(volatile uint64_t *)arena_page(arena, 0, page));
		if (wrong)
			kt_fail("a child sees in page %u of %s: %s", page, arena->name, wrong);
		*(volatile uint64_t *)arena_page(arena, 0, page) = arena_tag(arena, page, FORK_MARK);
	}
	for (unsigned int page = 0; page < arena->nr; page++)
		if (*(volatile uint64_t *)arena_page(arena, 0, page) != arena_tag(arena, page, FORK_MARK))
			kt_fail("a child lost what it wrote into page %u of %s", page, arena->name);
	_exit(0);
}

static bool fork_change(struct kind *kind, struct kt_rng *rng)
{
	int status = 0;
	/* the system call itself: the C library would wait for locks that its threads hold */
	pid_t child = (pid_t)syscall(SYS_clone, (unsigned long)SIGCHLD, 0UL, 0UL, 0UL, 0UL);

	(void)rng;
	if (child < 0)
		return false;
	if (!child)
		be_the_child(kind->arena[0]);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		kt_fail("a forked child ended with %#x", (unsigned int)status);
	return true;
}

/* --- mprotect --- */

static const char *mprotect_make(struct kind *kind)
{
	kind->arena[0] = anonymous("mprotect", 128, 8);
	kind->arena[0]->legal = KEPT_SEGV | OTHER_SEGV;
	arena_fill(kind->arena[0]);
	return NULL;
}

static bool mprotect_change(struct kind *kind, struct kt_rng *rng)
{
	static const int prots[] = { PROT_NONE, PROT_READ, RW, RW };
	struct range range;

	if (!kt_below(rng, 4))
		return advise(some(kind->arena[0], rng, true), MADV_DONTNEED);
	range = some(kind->arena[0], rng, false);
	return !mprotect(range.start, range.length, prots[kt_below(rng, KT_ARRAY(prots))]);
}

/* --- mlock --- */

static const char *mlock_make(struct kind *kind)
{
	kind->arena[0] = anonymous("mlock", 128, 8);
	arena_fill(kind->arena[0]);
	return NULL;
}

static bool mlock_change(struct kind *kind, struct kt_rng *rng)
{
	struct range range = some(kind->arena[0], rng, false);

	switch (kt_below(rng, 6)) {
	case 0: return !mlock(range.start, range.length);
	case 1: return !mlock2(range.start, range.length, MLOCK_ONFAULT);
	case 2: return map_again(some(kind->arena[0], rng, true));
	case 3: return advise(some(kind->arena[0], rng, true), MADV_DONTNEED_LOCKED);
	default: return !munlock(range.start, range.length);
	}
}

struct kind kinds[] = {
	{ .name = "munmap", .make = munmap_make, .change = munmap_change, .finish = munmap_finish },
	{ .name = "dontneed", .make = dontneed_make, .change = dontneed_change },
	{ .name = "collapse", .make = collapse_make, .change = collapse_change, .finish = make_writable,
	  .special = "collapses" },
	{ .name = "truncate", .make = truncate_make, .change = truncate_change, .finish = truncate_finish },
	{ .name = "mremap", .make = mremap_make, .change = mremap_change, .special = "moves" },
	{ .name = "fork", .make = fork_make, .change = fork_change },
	{ .name = "userfaultfd", .make = uffd_make, .change = uffd_change, .server = uffd_server,
	  .special = "resolved" },
	{ .name = "mprotect", .make = mprotect_make, .change = mprotect_change, .finish = make_writable },
	{ .name = "mlock", .make = mlock_make, .change = mlock_change },
};
const unsigned int nr_kinds = KT_ARRAY(kinds);
