// SPDX-License-Identifier: GPL-2.0-only
/*
 * fault-scaling: page faults per second by 1 ... n threads of one process, with and without a thread that
 * maps and unmaps meanwhile. README.md explains the choices.
 */
#include "bench.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define WRITER_PAGES 16
/* One touch in so many is timed: reading the clock costs, too. */
#define TIMED 16

enum { SECONDS, THREADS, PAGES, PAUSE_US, TOUCH, ROUNDS, NR_OPTIONS };

static struct bench_option options[NR_OPTIONS] = {
	[SECONDS] = { "seconds", "counted for each number of threads", 3, 0.1, 3600, false },
	[THREADS] = { "threads", "the most that fault; 0: one on each CPU", 0, 0, BENCH_MAX_WORKERS - 1, true },
	[PAGES] = { "pages", "that a thread touches before it drops them", 256, 16, 65536, true },
	[PAUSE_US] = { "pause-us", "between two writes, spinning", 500, 0, 1000000, false },
	[TOUCH] = { "touch", "pages that the writer touches, of 16 that it maps", 0, 0, WRITER_PAGES, true },
	[ROUNDS] = { "rounds", "in which the time is spent, all phases in turn", 3, 1, 100, true },
};

struct area {
	char *start;
	struct hist took;
	uint64_t touched, faults;
} BENCH_LINE;

static struct area areas[BENCH_MAX_WORKERS];
static struct bench_step steps[BENCH_MAX_STEPS];
static struct hist wrote;
static uint64_t touched[BENCH_MAX_STEPS], faulted[BENCH_MAX_STEPS];

static uint64_t own_faults(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_THREAD, &usage))
		bench_die("getrusage: %s", strerror(errno));
	return (uint64_t)usage.ru_minflt;
}

static void fault(struct bench_worker *self)
{
	const size_t page = kt_page(), length = (size_t)options[PAGES].value * page;
	struct area *area = self->arg;
	uint64_t before = own_faults(), touches = 0;

	while (!bench_stopped()) {
		for (size_t at = 0; at < length; at += page) {
			if (touches++ % TIMED) {
				*(volatile char *)(area->start + at) = 1;
			} else {
				uint64_t start = kt_now_ns();

				*(volatile char *)(area->start + at) = 1;
				hist_add(&area->took, kt_now_ns() - start);
			}
			bench_done(self, 1);
		}
		if (madvise(area->start, length, MADV_DONTNEED))
			bench_die("MADV_DONTNEED: %s", strerror(errno));
	}
	area->touched += touches;
	area->faults += own_faults() - before;
}

static void map_and_unmap(struct bench_worker *self)
{
	const size_t page = kt_page(), length = WRITER_PAGES * page;
	const unsigned int touch = (unsigned int)options[TOUCH].value;
	const uint64_t pause = (uint64_t)(options[PAUSE_US].value * 1000);

	while (!bench_stopped()) {
		uint64_t start = kt_now_ns();
		char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (at == MAP_FAILED)
			bench_die("mmap: %s", strerror(errno));
		for (unsigned int i = 0; i < touch; i++)
			*(volatile char *)(at + i * page) = 1;
		if (munmap(at, length))
			bench_die("munmap: %s", strerror(errno));
		hist_add(&wrote, kt_now_ns() - start);
		bench_done(self, 1);
		bench_spin_ns(pause);
	}
}

/* Each thread faults in a VMA of its own: on a common one they would meet at its lock. */
static void make_areas(unsigned int nr)
{
	const size_t page = kt_page(), length = (size_t)options[PAGES].value * page;

	for (unsigned int i = 0; i < nr; i++) {
		char *at = mmap(NULL, length + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (at == MAP_FAILED || mprotect(at + page, length, PROT_READ | PROT_WRITE))
			bench_die("memory: %s", strerror(errno));
		/* a kernel without huge pages does not know the advice, and needs none */
		madvise(at + page, length, MADV_NOHUGEPAGE);
		areas[i].start = at + page;
	}
}

static void run_step(unsigned int nr, double seconds)
{
	for (unsigned int i = 0; i < steps[nr].threads; i++) {
		areas[i].touched = areas[i].faults = 0;
		memset(&areas[i].took, 0, sizeof(areas[i].took));
	}
	memset(&wrote, 0, sizeof(wrote));
	bench_run(&steps[nr].phase, seconds);
	hist_merge(&steps[nr].wrote, &wrote);
	for (unsigned int i = 0; i < steps[nr].threads; i++) {
		touched[nr] += areas[i].touched;
		faulted[nr] += areas[i].faults;
		hist_merge(&steps[nr].took, &areas[i].took);
	}
}

static void report(unsigned int nr_steps, unsigned int nr)
{
	const struct bench_step *step = &steps[nr];
	char name[64];

	bench_report_step(steps, nr_steps, step, "faults");
	snprintf(name, sizeof(name), "%s: touches were faults", step->name);
	bench_proof(name, faulted[nr] >= touched[nr] / 10 * 9, "%llu touches, %llu faults",
		    (unsigned long long)touched[nr], (unsigned long long)faulted[nr]);
	bench_times("fault", "ns", step->name, &step->took, 0, BENCH_ENOUGH);
}

int main(int argc, char **argv)
{
	const struct bench_worker faulter = { .role = "faulter", .run = fault, .arg = areas };
	const struct bench_worker writer = { .role = "writer", .run = map_and_unmap };
	unsigned int nr;

	bench_start(argc, argv, "fault-scaling",
		    "Count page faults of 1 ... n threads, with and without a thread that maps and unmaps.", options,
		    NR_OPTIONS);
	if (kt_cpus() < 2)
		bench_cannot("needs 2 CPUs, %d may be used", kt_cpus());
	nr = bench_make_steps(steps, (unsigned int)options[THREADS].value, &faulter, sizeof(areas[0]), &writer);
	make_areas(bench_most_threads(steps, nr));
	/* in turn, so that a host that slows down meanwhile slows them all */
	for (unsigned int round = 0; round < (unsigned int)options[ROUNDS].value; round++)
		for (unsigned int i = 0; i < nr; i++)
			run_step(i, options[SECONDS].value / options[ROUNDS].value);
	for (unsigned int i = 0; i < nr; i++)
		report(nr, i);
	bench_prove_clock("a fault", hist_mean(&steps[0].took));
	return bench_finish();
}
