// SPDX-License-Identifier: GPL-2.0-only
/*
 * query-throughput: PROCMAP_QUERY per second by 1 ... n threads about another process, which maps and unmaps
 * meanwhile, or does not. README.md explains the choices.
 */
#include "bench.h"
#include "query.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WRITER_PAGES 16
/* One query in so many is timed: reading the clock costs, too. */
#define TIMED 16

enum { SECONDS, THREADS, VMAS, PAUSE_US, ROUNDS, NR_OPTIONS };

static struct bench_option options[NR_OPTIONS] = {
	[SECONDS] = { "seconds", "counted for each number of threads", 3, 0.1, 3600, false },
	[THREADS] = { "threads", "the most that query; 0: one on each CPU", 0, 0, BENCH_MAX_WORKERS - 1, true },
	[VMAS] = { "vmas", "that the queries are about", 1000, 10, 60000, true },
	[PAUSE_US] = { "pause-us", "between two writes of the target, spinning", 500, 0, 1000000, false },
	[ROUNDS] = { "rounds", "in which the time is spent, all phases in turn", 3, 1, 100, true },
};

struct asker {
	int fd;
	struct kt_rng rng;
	struct hist took;
	uint64_t wrong, failed;
	int last_errno;
} BENCH_LINE;

/* Between the target and those who ask about it. */
struct shared {
	uint64_t start;
	struct hist wrote;	/* the target's while it writes, its parent's while it rests */
};

static struct asker askers[BENCH_MAX_WORKERS];
static struct bench_step steps[BENCH_MAX_STEPS];
static struct shared *shared;

/* --- the target --- */

static void make_vmas(struct bench_worker *self)
{
	const size_t nr = (size_t)options[VMAS].value;
	char *vmas = kt_map(NULL, nr * kt_page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	int error = kt_split(vmas, nr, PROT_READ, PROT_NONE);

	(void)self;
	if (error)
		bench_cannot("%zu VMAs: %s", nr, strerror(error));
	shared->start = (uintptr_t)vmas;
}

static void map_and_unmap(struct bench_worker *self)
{
	const size_t length = WRITER_PAGES * kt_page();

	while (!bench_stopped()) {
		uint64_t start = kt_now_ns();
		char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (at == MAP_FAILED)
			_exit(1);
		*(volatile char *)at = 1;
		if (munmap(at, length))
			_exit(1);
		hist_add(&shared->wrote, kt_now_ns() - start);
		bench_done(self, 1);
		bench_spin_ns((uint64_t)(options[PAUSE_US].value * 1000));
	}
}

/* --- the queries --- */

static bool ask(struct asker *asker, size_t nr)
{
	const uint64_t start = shared->start + nr * kt_page();
	struct procmap_query query = { .size = sizeof(query), .query_addr = start };

	if (ioctl(asker->fd, PROCMAP_QUERY, &query)) {
		asker->last_errno = errno;
		asker->failed++;
		return false;
	}
	if (query.vma_start != start || query.vma_end != start + kt_page()) {
		asker->wrong++;
		return false;
	}
	return true;
}

static void ask_on(struct bench_worker *self)
{
	struct asker *asker = self->arg;
	uint64_t queries = 0;

	while (!bench_stopped()) {
		size_t nr = (size_t)kt_below(&asker->rng, (uint64_t)options[VMAS].value);
		uint64_t start = 0;
		bool right;

		if (!(queries++ % TIMED))
			start = kt_now_ns();
		right = ask(asker, nr);
		if (start)
			hist_add(&asker->took, kt_now_ns() - start);
		bench_done(self, right);
	}
}

/* One file each: what one of them keeps in it is not shared with the others. */
static void open_files(pid_t target, unsigned int nr)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)target);
	for (unsigned int i = 0; i < nr; i++) {
		askers[i].fd = open(path, O_RDONLY | O_CLOEXEC);
		askers[i].rng.state = i;
		if (askers[i].fd < 0)
			bench_die("%s: %s", path, strerror(errno));
	}
	if (!ask(&askers[0], 0) && askers[0].last_errno == ENOTTY)
		bench_cannot("this kernel has no PROCMAP_QUERY, which came with 6.11");
}

static void run_step(struct bench_step *step, double seconds)
{
	for (unsigned int i = 0; i < step->threads; i++)
		memset(&askers[i].took, 0, sizeof(askers[i].took));
	memset(&shared->wrote, 0, sizeof(shared->wrote));
	bench_run(&step->phase, seconds);
	hist_merge(&step->wrote, &shared->wrote);
	for (unsigned int i = 0; i < step->threads; i++)
		hist_merge(&step->took, &askers[i].took);
}

static void report(unsigned int nr_steps, const struct bench_step *step)
{
	bench_report_step(steps, nr_steps, step, "queries");
	bench_times("query", "ns", step->name, &step->took, 0, BENCH_ENOUGH);
}

static void prove_answers(unsigned int nr)
{
	unsigned long long wrong = 0, failed = 0;
	int error = 0;

	for (unsigned int i = 0; i < nr; i++) {
		wrong += askers[i].wrong;
		failed += askers[i].failed;
		error = askers[i].last_errno ? askers[i].last_errno : error;
	}
	bench_proof("every answer was right", !wrong && !failed, "%llu wrong answers, %llu failed queries%s%s",
		    wrong, failed, error ? ": " : "", error ? strerror(error) : "");
}

int main(int argc, char **argv)
{
	struct bench_worker asker = { .role = "asker", .run = ask_on, .arg = askers };
	struct bench_worker writer = { .role = "writer", .run = map_and_unmap, .prepare = make_vmas };
	unsigned int nr;

	bench_start(argc, argv, "query-throughput",
		    "Count PROCMAP_QUERY of 1 ... n threads about a process that maps and unmaps, or does not.",
		    options, NR_OPTIONS);
	if (kt_cpus() < 2)
		bench_cannot("needs 2 CPUs, %d may be used", kt_cpus());
	shared = kt_shared(sizeof(*shared));
	writer.slot = kt_cpus() - 1;
	bench_start_process(&writer);
	nr = bench_make_steps(steps, (unsigned int)options[THREADS].value, &asker, sizeof(askers[0]), &writer);
	open_files(bench_pid(&writer), bench_most_threads(steps, nr));
	/* in turn, so that a host that slows down meanwhile slows them all */
	for (unsigned int round = 0; round < (unsigned int)options[ROUNDS].value; round++)
		for (unsigned int i = 0; i < nr; i++)
			run_step(&steps[i], options[SECONDS].value / options[ROUNDS].value);
	for (unsigned int i = 0; i < nr; i++)
		report(nr, &steps[i]);
	prove_answers(bench_most_threads(steps, nr));
	bench_prove_clock("a query", hist_mean(&steps[0].took));
	return bench_finish();
}
