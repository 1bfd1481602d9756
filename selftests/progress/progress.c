// SPDX-License-Identifier: GPL-2.0-only
/*
 * Does everybody get on? One task is watched, first alone, then while others do to it the worst they can:
 * a reader of the address space among writers that change it, or a writer among readers.
 */
#include "hist.h"
#include "passes.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define VMAS 1000
#define PATIENCE_S 10		/* on a fast machine: nobody may get nothing done for so long */
#define LEAST_DONE 3
#define LEAST_DISTURBED 20
#define BLOCK_PAGES 256		/* of a mapping whose end takes its time */

enum phase { ALONE, DISTURBED, STOP, LEAVE, NR_TIMED = STOP };
enum call { CALL_MMAP, CALL_MUNMAP, CALL_MPROTECT, NR_CALLS };

static const char *const call_names[NR_CALLS] = { "mmap", "munmap", "mprotect" };

static struct shared {
	_Atomic int phase;
	_Atomic bool ready, parked;
	_Atomic uint64_t done[NR_TIMED];	/* by the watched one */
	_Atomic uint64_t disturbed;		/* by the others */
	struct hist times[NR_TIMED][NR_CALLS];	/* of the watched one; a reader's are the first of a phase */
} *shared;

static char *region;

static double patience_s(void)
{
	return PATIENCE_S * kt_factor();
}

static enum phase phase(void)
{
	return (enum phase)atomic_load(&shared->phase);
}

static void add_time(enum phase began_in, unsigned int of, uint64_t ns)
{
	/* what began undisturbed, but ended disturbed, is neither; what was running at the end counts */
	if (began_in == ALONE && phase() != ALONE)
		return;
	hist_add(&shared->times[began_in][of], ns);
	atomic_fetch_add(&shared->done[began_in], 1);
}

static void park(void)
{
	atomic_store(&shared->parked, true);
	for (;;)
		pause();
}

/* --- the address space --- */

static int permission(size_t index)
{
	return index % 2 ? PROT_READ : PROT_READ | PROT_WRITE;
}

static char *page_at(size_t index)
{
	return region + index * kt_page();
}

/* Many VMAs, each with a page in it: there is something to walk through. */
static void build(void)
{
	int error;

	region = kt_map(NULL, VMAS * kt_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	memset(region, 1, VMAS * kt_page());
	error = kt_split(region, VMAS, permission(0), permission(1));
	if (error)
		kt_inconclusive("mprotect: %s", strerror(error));
}

static void must(bool good, const char *call)
{
	if (!good)
		kt_inconclusive("%s of the target: %s", call, strerror(errno));
}

static void map_page(char *at, int prot)
{
	must(mmap(at, kt_page(), prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED, "mmap");
}

/* Write-locks every VMA, and holds mmap_lock all the while. */
static void flag_all(int advice)
{
	/* a page that another thread has just unmapped is told by ENOMEM; all others are done */
	must(!madvise(region, VMAS * kt_page(), advice) || errno == ENOMEM, "madvise");
}

static void map_block(void)
{
	size_t length = BLOCK_PAGES * kt_page();
	char *block = kt_map(NULL, length, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1);

	must(!munmap(block, length), "munmap");
}

/* Over all the VMAs of one half at once; then it is split anew. */
static void map_half(size_t first)
{
	void *got = mmap(page_at(first), VMAS / 2 * kt_page(), PROT_READ,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	must(got != MAP_FAILED, "mmap");
	for (size_t i = first; i < first + VMAS / 2; i++)
		must(!mprotect(page_at(i), kt_page(), permission(i)) || errno == ENOMEM, "mprotect");
}

/* Writers as hostile as they come: each change in turn, without rest. */
static void *disturb_by_writing(void *arg)
{
	size_t number = (size_t)arg;
	struct kt_rng rng = { kt_seed() + number };

	while (phase() == ALONE)
		kt_sleep_ns(500000);
	for (unsigned int step = (unsigned int)number; phase() != LEAVE; step++) {
		size_t index = kt_below(&rng, VMAS);
		char *at = page_at(index);

		switch (step % 8) {
		case 0:
			flag_all(MADV_DONTDUMP);
			break;
		case 1:
			must(!munmap(at, kt_page()), "munmap");
			map_page(at, permission(index));
			break;
		case 2:
			flag_all(MADV_DODUMP);
			break;
		case 3:
			must(!mprotect(at, kt_page(), permission(index + 1)) || errno == ENOMEM, "mprotect");
			map_page(at, permission(index));
			break;
		case 4:
			map_half(step / 8 % 2 * (VMAS / 2));
			break;
		case 5:
			map_block();
			break;
		default:
			map_page(at, permission(index));
		}
		atomic_fetch_add(&shared->disturbed, 1);
	}
	return NULL;
}

static void timed(enum call call, enum phase now, char *at, size_t index)
{
	uint64_t since = kt_now_ns();

	switch (call) {
	case CALL_MMAP:
		map_page(at, permission(index));
		break;
	case CALL_MUNMAP:
		must(!munmap(at, kt_page()), "munmap");
		break;
	default:
		must(!mprotect(at, kt_page(), permission(index + 1)), "mprotect");
	}
	add_time(now, call, kt_now_ns() - since);
}

/* The watched writer: one page in three calls, all of them among what the readers walk through. */
static void write_anywhere(void)
{
	static const enum call order[] = { CALL_MPROTECT, CALL_MUNMAP, CALL_MMAP };
	struct kt_rng rng = { kt_seed() };

	atomic_store(&shared->ready, true);
	while (phase() < STOP) {
		size_t index = kt_below(&rng, VMAS);

		for (size_t i = 0; i < KT_ARRAY(order); i++)
			timed(order[i], phase() == ALONE ? ALONE : DISTURBED, page_at(index), index);
	}
	park();
}

/* On the CPU that the readers leave. */
static void write_watched(void)
{
	kt_pin(kt_cpus() - 1);
	write_anywhere();
}

/* --- readers --- */

static void read_watched(enum way way, int fd)
{
	atomic_store(&shared->ready, true);
	while (phase() < STOP) {
		enum phase now = phase() == ALONE ? ALONE : DISTURBED;
		uint64_t since = kt_now_ns();

		if (!way_pass(way, fd))
			kt_inconclusive("%s is empty", way_names[way]);
		add_time(now, 0, kt_now_ns() - since);
	}
	park();
}

static void disturb_by_reading(enum way way, int fd)
{
	while (phase() == ALONE)
		kt_sleep_ns(500000);
	while (phase() != LEAVE) {
		if (!way_pass(way, fd))
			break;
		atomic_fetch_add(&shared->disturbed, 1);
	}
	_exit(0);
}

/* --- a case --- */

static void describe(int pid)
{
	char path[64], text[1024] = "", state = kt_task_state(pid, pid);

	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	kt_read_file(path, text, sizeof(text));
	for (char *p = text; *p; p++)
		if (*p == '\n')
			*p = ' ';
	kt_note("process %d is in state %c; %s", pid, state ? state : '-', text);
}

/* Both sides, until a time and until each has done the least; false: one of them gets nothing done. */
static bool watch(uint64_t until, pid_t watched, pid_t other, const char *what, const char *disturber)
{
	uint64_t now = kt_now_ns(), limit = (uint64_t)(patience_s() * (double)KT_NSEC);
	uint64_t done = 0, disturbed = 0, done_at = now, disturbed_at = now;

	for (; now < until || done < LEAST_DONE || disturbed < LEAST_DISTURBED; now = kt_now_ns()) {
		if (atomic_load(&shared->done[DISTURBED]) != done)
			done_at = now;
		if (atomic_load(&shared->disturbed) != disturbed)
			disturbed_at = now;
		done = atomic_load(&shared->done[DISTURBED]);
		disturbed = atomic_load(&shared->disturbed);
		if (now - done_at > limit) {
			kt_fail("no %s completed for %.0f s", what, patience_s());
			describe(watched);
			return false;
		}
		if (now - disturbed_at > limit) {
			kt_fail("no %s completed for %.0f s", disturber, patience_s());
			describe(other);
			return false;
		}
		kt_sleep_ns(2000000);
	}
	return true;
}

static bool wait_for(const _Atomic bool *flag, const char *what)
{
	uint64_t until = kt_now_ns() + (uint64_t)(patience_s() * (double)KT_NSEC);

	while (!atomic_load(flag)) {
		if (kt_now_ns() >= until) {
			kt_fail("no %s completed for %.0f s", what, patience_s());
			return false;
		}
		kt_sleep_ns(1000000);
	}
	return true;
}

static void figures(const char *name, unsigned int of)
{
	static const char *const phases[] = { "alone ", "" };
	char text[40];

	for (int i = ALONE; i < NR_TIMED; i++) {
		const struct hist *hist = &shared->times[i][of];

		snprintf(text, sizeof(text), "%s%s p50, ms", phases[i], name);
		kt_figure(text, (double)hist_quantile(hist, 0.5) / 1e6);
		if (i == DISTURBED) {
			snprintf(text, sizeof(text), "%s p99, ms", name);
			kt_figure(text, (double)hist_quantile(hist, 0.99) / 1e6);
		}
		snprintf(text, sizeof(text), "%s%s max, ms", phases[i], name);
		kt_figure(text, (double)hist->max / 1e6);
	}
}

/* False, if somebody did not get on: then the case is over. */
static bool run(pid_t watched, pid_t other, const char *what, const char *disturber)
{
	uint64_t until;

	if (!wait_for(&shared->ready, what))
		return false;
	kt_sleep_ns((uint64_t)(kt_seconds() / 4 * (double)KT_NSEC));
	atomic_store(&shared->phase, DISTURBED);
	until = kt_now_ns() + (uint64_t)(kt_seconds() * 0.75 * (double)KT_NSEC);
	if (!watch(until, watched, other, what, disturber))
		return false;
	/* the others go on until it is through, so that its longest is measured to its end */
	atomic_store(&shared->phase, STOP);
	if (!wait_for(&shared->parked, what))
		return false;
	atomic_store(&shared->phase, LEAVE);
	kt_work(what, atomic_load(&shared->done[DISTURBED]), LEAST_DONE);
	kt_work(disturber, atomic_load(&shared->disturbed), LEAST_DISTURBED);
	kt_figure("done alone", (double)atomic_load(&shared->done[ALONE]));
	return true;
}

static void setup(void)
{
	shared = kt_shared(sizeof(*shared));
}

static int open_way(enum way way, int pid)
{
	int fd = way_open(way, pid);

	if (fd < 0 && (errno == ENOENT || errno == ENOTTY))
		kt_skip("the kernel has no %s", way_names[way]);
	if (fd < 0)
		kt_inconclusive("%s: %s", way_names[way], strerror(errno));
	return fd;
}

/* The process that is read: what it does is up to its thread, which begins when the file is open. */
static pid_t start_target(void (*act)(void))
{
	pid_t pid = kt_fork();

	if (pid)
		return pid;
	build();
	act();
	_exit(0);
}

static void write_wildly(void)
{
	int writers = kt_cpus() < 2 ? 2 : kt_cpus();
	pthread_t thread;

	for (int i = 0; i < writers; i++)
		if (pthread_create(&thread, NULL, disturb_by_writing, (void *)(size_t)(3 * i)))
			kt_inconclusive("no thread: %s", strerror(errno));
	atomic_store(&shared->ready, true);
	for (;;)
		pause();
}

static void reads(const void *arg)
{
	enum way way = *(const enum way *)arg;
	pid_t target, reader;
	int fd;

	setup();
	target = start_target(write_wildly);
	fd = open_way(way, target);
	if (!wait_for(&shared->ready, "writer"))
		return;
	atomic_store(&shared->ready, false);
	reader = kt_fork();
	if (!reader)
		read_watched(way, fd);
	if (run(reader, target, "reads", "changes"))
		figures("read", 0);
}

struct readers {
	enum way ways[2];
	bool everywhere;	/* no CPU is left to the writer alone */
};

static void writes(const void *arg)
{
	struct readers of = *(const struct readers *)arg, *readers = &of;
	/* one more than there are CPUs, so that some reader always was stopped where it just stood */
	int number = kt_cpus() + 1;
	pid_t target, other = 0;
	int fd;

	setup();
	target = start_target(readers->everywhere ? write_anywhere : write_watched);
	close(open_way(readers->ways[0], target));
	/* the first does alone where the kernel lacks the second */
	fd = way_open(readers->ways[1], target);
	if (fd < 0)
		readers->ways[1] = readers->ways[0];
	else
		close(fd);
	for (int i = 0; i < number; i++) {
		other = kt_fork();
		if (!other) {
			/* a description of its own: it holds the position */
			fd = open_way(readers->ways[i % 2], target);
			/* README.md, "A CPU of its own" */
			if (!readers->everywhere && kt_cpus() > 1)
				kt_pin(i % (kt_cpus() - 1));
			disturb_by_reading(readers->ways[i % 2], fd);
		}
	}
	if (!run(target, other, "writes", "reads"))
		return;
	for (unsigned int i = 0; i < NR_CALLS; i++)
		figures(call_names[i], i);
	/* they end by themselves: one that is killed among writers makes the kernel complain of its reader */
	while (number--)
		waitpid(-1, NULL, 0);
}

static const enum way maps = WAY_MAPS, smaps = WAY_SMAPS, numa_maps = WAY_NUMA_MAPS, query = WAY_QUERY;
static const struct readers of_maps = { { WAY_MAPS, WAY_QUERY }, false };
static const struct readers of_smaps = { { WAY_SMAPS, WAY_NUMA_MAPS }, false };
static const struct readers of_rollup = { { WAY_ROLLUP, WAY_ROLLUP }, false };
static const struct readers crowd = { { WAY_MAPS, WAY_MAPS }, true };

static const struct kt_case cases[] = {
	{ "reads.maps", "complete reads of maps end, whatever writers do meanwhile", reads, &maps, 1.0, 60 },
	{ "reads.smaps", "the same of smaps", reads, &smaps, 1.0, 60 },
	{ "reads.numa_maps", "the same of numa_maps", reads, &numa_maps, 1.0, 60 },
	{ "reads.query", "the same of asking PROCMAP_QUERY for each VMA in turn", reads, &query, 1.0, 60 },
	{ "writes.maps", "mmap, munmap and mprotect end, while readers of maps and PROCMAP_QUERY never rest",
	  writes, &of_maps, 1.0, 60 },
	{ "writes.smaps", "the same while those of smaps and numa_maps do not", writes, &of_smaps, 1.0, 60 },
	{ "writes.smaps_rollup", "the same while those of smaps_rollup do not", writes, &of_rollup, 1.0, 60 },
	/* a group of its own, which the suite leaves out: it can cost the machine */
	{ "crowd.maps", "the same with readers of maps on every CPU", writes, &crowd, 5.0, 60 },
};

int main(int argc, char **argv)
{
	return kt_main(argc, argv, "progress", cases, KT_ARRAY(cases));
}
