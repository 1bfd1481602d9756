// SPDX-License-Identifier: GPL-2.0-only
/* userfaultfd: a server fills pages that are missing, while others drop them and take the service away. */
#include "stress.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* UFFDIO_MOVE as Linux 6.8 defined it; older headers lack it. */
struct move {
	uint64_t dst, src, len, mode;
	int64_t moved;
};
#define MOVE _IOWR(UFFDIO, 0x05, struct move)
#define FEATURE_MOVE (1ULL << 16)

enum { SERVED, FLIPPED };

static int uffd;
static bool can_move;
static char *copy_from, *move_from;

static int open_uffd(uint64_t features, uint64_t *offered)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -1;
	}
	*offered = api.features;
	return fd;
}

static bool enroll(char *start, size_t length)
{
	struct uffdio_register request = { .range = { (uintptr_t)start, length },
					   .mode = UFFDIO_REGISTER_MODE_MISSING };

	return !ioctl(uffd, UFFDIO_REGISTER, &request);
}

static struct arena *missing(const char *name, unsigned int block)
{
	struct arena *arena = arena_reserve(name, 128 * kt_page(), kt_page(), 1);

	arena_map(arena, PROT_READ | PROT_WRITE, MAP_PRIVATE, -1);
	madvise(arena->place[0], arena->length, MADV_NOHUGEPAGE);
	arena->block = block;
	arena->may_be_empty = !block;
	if (!enroll(arena->place[0], arena->length))
		kt_inconclusive("UFFDIO_REGISTER: %s", strerror(errno));
	return arena;
}

const char *uffd_make(struct kind *kind)
{
	const size_t page = kt_page();
	uint64_t offered;

	uffd = open_uffd(0, &offered);
	if (uffd < 0)
		return errno == ENOSYS ? "the kernel has no userfaultfd" : "userfaultfd is not allowed";
	can_move = offered & FEATURE_MOVE;
	if (can_move) {
		close(uffd);
		uffd = open_uffd(FEATURE_MOVE, &offered);
		if (uffd < 0)
			kt_inconclusive("UFFDIO_API with UFFDIO_MOVE: %s", strerror(errno));
	}
	copy_from = kt_map(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	/* a mapping that merges with no neighbour: only anonymous memory of one page is moved out of it */
	move_from = kt_map(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	move_from += page;
	kt_map(move_from, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
	/* always served: what is dropped comes back as it was, so everything there is kept */
	kind->arena[SERVED] = missing("userfaultfd", 128);
	/* served at times */
	kind->arena[FLIPPED] = missing("userfaultfd-flipped", 0);
	return NULL;
}

bool uffd_change(struct kind *kind, struct kt_rng *rng)
{
	const struct arena *arena = kind->arena[kt_below(rng, 2)];
	struct uffdio_range range;
	unsigned int page, count;
	char *start;

	arena_range(arena, rng, false, &page, &count);
	start = arena_page(arena, 0, page);
	if (arena == kind->arena[SERVED] || kt_below(rng, 2))
		return !madvise(start, count * kt_page(), MADV_DONTNEED);
	if (kt_below(rng, 2))
		return enroll(start, count * kt_page());
	range = (struct uffdio_range){ (uintptr_t)start, count * kt_page() };
	return !ioctl(uffd, UFFDIO_UNREGISTER, &range);
}

static void write_tags(char *page, uint64_t tag)
{
	*(volatile uint64_t *)page = tag;
	*(volatile uint64_t *)(page + kt_page() - sizeof(tag)) = tag;
}

static bool move_in(char *page, uint64_t tag)
{
	struct move move = { .dst = (uintptr_t)page, .src = (uintptr_t)move_from, .len = kt_page() };

	write_tags(move_from, tag);
	return !ioctl(uffd, MOVE, &move);
}

/* Fill one page; whoever waits for it goes on in any case, and comes back if it is still missing. */
static bool resolve(char *page, uint64_t tag, bool by_move)
{
	struct uffdio_copy copy = { .dst = (uintptr_t)page, .src = (uintptr_t)copy_from, .len = kt_page() };
	struct uffdio_range range = { (uintptr_t)page, kt_page() };

	if (by_move && can_move && move_in(page, tag))
		return true;
	write_tags(copy_from, tag);
	if (!ioctl(uffd, UFFDIO_COPY, &copy))
		return true;
	/* filled by then, or not served any more */
	ioctl(uffd, UFFDIO_WAKE, &range);
	return false;
}

void *uffd_server(void *of)
{
	struct kind *kind = of;
	unsigned int turn = 0;

	while (!atomic_load(&shared->stop_server)) {
		struct pollfd wait = { .fd = uffd, .events = POLLIN };
		struct uffd_msg message;

		if (poll(&wait, 1, 10) <= 0 || read(uffd, &message, sizeof(message)) != sizeof(message) ||
		    message.event != UFFD_EVENT_PAGEFAULT)
			continue;
		for (unsigned int i = 0; i < 2; i++) {
			const struct arena *arena = kind->arena[i];
			uint64_t at = message.arg.pagefault.address - (uintptr_t)arena->place[0];
			unsigned int page = (unsigned int)(at / kt_page());

			if (at < arena->length &&
			    resolve(arena_page(arena, 0, page), arena_tag(arena, page, 0), turn++ & 1))
				atomic_fetch_add(&kind->nr_special, 1);
		}
	}
	return NULL;
}
