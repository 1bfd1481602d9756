// SPDX-License-Identifier: GPL-2.0-only
/*
 * The test that the patch series was measured with, and its table: a mapper that begins with one mapping of
 * 128 MiB, two scanners of niceness 15 on CPUs 2 and 3, each beside a task that is busy for 2 ms and sleeps
 * for 1 ms. README.md tells what the columns mean, and what differs from the original.
 */
#include "map-latency.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHOWN 4 /* rows at either end that the series shows */
#define FIRST_SCAN_S 30

struct row {
	const char *median, *mean, *max;
};

/* The cover letter of version 4, June 2025: the first and the last rows of 100, in ms, on its author's machine. */
static const struct row before[2 * SHOWN] = {
	{ "0.011", "0.008", "0.455" }, { "0.011", "0.008", "0.472" }, { "0.011", "0.008", "0.535" },
	{ "0.011", "0.009", "0.545" }, { "0.011", "0.014", "2.875" }, { "0.011", "0.014", "2.913" },
	{ "0.011", "0.014", "3.007" }, { "0.011", "0.015", "3.018" },
};
static const struct row after[2 * SHOWN] = {
	{ "0.006", "0.005", "0.036" }, { "0.006", "0.005", "0.039" }, { "0.006", "0.005", "0.039" },
	{ "0.006", "0.005", "0.039" }, { "0.006", "0.006", "0.403" }, { "0.006", "0.006", "0.474" },
	{ "0.006", "0.006", "0.479" }, { "0.006", "0.006", "0.498" },
};

/* Of one run, told by its process. */
struct sample {
	bool done;
	char fault[160]; /* why it does not count; empty if it does */
	uint64_t ops, scans[2];
	double mean_ms, max_ms;
};

static void fault(struct sample *sample, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void fault(struct sample *sample, const char *format, ...)
{
	va_list arguments;

	if (*sample->fault)
		return;
	va_start(arguments, format);
	vsnprintf(sample->fault, sizeof(sample->fault), format, arguments);
	va_end(arguments);
}

static bool on_its_cpu(const struct readback *back, unsigned int cpu)
{
	return back->have_cpus && CPU_COUNT_S(back->cpus_size, back->cpus) == 1 &&
	       CPU_ISSET_S(cpu, back->cpus_size, back->cpus);
}

static void judge_child(struct sample *sample, unsigned int nr, const struct phase *phase)
{
	const struct readback *back = &phase->child[nr];
	const char *what = children[nr].role == SCANNER ? "scanner" : "busy task";
	int nice = children[nr].role == SCANNER ? opt.nice : mapper_nice;
	unsigned int cpu = children[nr].cpu;

	if (!back->alive)
		fault(sample, "the %s on CPU %u was dead at the end", what, cpu);
	else if (!back->scans || back->last_end_ns < phase->start_ns)
		fault(sample, "the %s on CPU %u did nothing (errno %d)", what, cpu, back->last_errno);
	else if (!back->have_nice || back->nice != nice)
		fault(sample, "the %s on CPU %u had niceness %d, %d was asked for", what, cpu, back->nice, nice);
	else if (!on_its_cpu(back, cpu))
		fault(sample, "the %s was not on CPU %u", what, cpu);
}

/* The mapper begins when both are scanning, as the original does. */
static void wait_for_first_scans(struct sample *sample)
{
	const uint64_t limit = now_ns() + FIRST_SCAN_S * NSEC;

	for (unsigned int i = 0; i < nr_children; i++) {
		while (children[i].role == SCANNER && !atomic_load(&shared->of[i].scans)) {
			if (now_ns() > limit) {
				fault(sample, "the scanner on CPU %u did not scan once in %d s (errno %d)",
				      children[i].cpu, FIRST_SCAN_S, atomic_load(&shared->of[i].last_errno));
				return;
			}
			sleep_ns(1000000);
		}
	}
}

static _Noreturn void be_a_sample(struct sample *sample, unsigned int nr, pid_t parent)
{
	static struct phase phase = { .kind = SCANNED };
	unsigned int scanner = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_SYSCALL);
	seed_random(opt.seed + nr);
	make_shared();
	start_all_children();
	make_whole_region();
	wait_for_idle();
	start_children(SCANNED);
	wait_for_first_scans(sample);
	map_and_unmap(&phase);
	read_back_children(&phase);
	atomic_store(&shared->stop, true);
	read_back(getpid(), &phase.mapper);
	for (unsigned int i = 0; i < nr_children; i++) {
		judge_child(sample, i, &phase);
		if (children[i].role == SCANNER)
			sample->scans[scanner++ & 1] = phase.child[i].scans;
	}
	if (!on_its_cpu(&phase.mapper, opt.mapper_cpu))
		fault(sample, "the mapper was not on CPU %u", opt.mapper_cpu);
	if (!phase.took.count || phase.errors)
		fault(sample, "%" PRIu64 " operations, %" PRIu64 " that failed", phase.took.count, phase.errors);
	sample->ops = phase.took.count;
	sample->mean_ms = hist_mean(&phase.took) / 1e6;
	sample->max_ms = (double)phase.took.max / 1e6;
	end_children();
	sample->done = true;
	_exit(0);
}

static void run_sample(struct sample *sample, unsigned int nr)
{
	pid_t parent = getpid(), child = fork();
	int status = 0;

	if (child < 0)
		die(EXIT_SYSCALL, "fork: %s", strerror(errno));
	if (!child)
		be_a_sample(sample, nr, parent);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (!sample->done)
		fault(sample, "its mapper ended with status %#x", (unsigned int)status);
}

static int by_value(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

/* Of the rows that the series shows, the one that stands where ours does; NULL in the middle. */
static const struct row *opposite(const struct row *rows, unsigned int at, unsigned int nr)
{
	unsigned int from_end = nr - 1 - at;

	if (at < SHOWN && at <= from_end)
		return &rows[at];
	return from_end < SHOWN ? &rows[2 * SHOWN - 1 - from_end] : NULL;
}

static void print_reference(const struct row *row)
{
	if (row)
		printf("   %6s %6s %6s", row->median, row->mean, row->max);
	else
		printf("   %6s %6s %6s", "", ".", "");
}

static void print_table(const struct sample *samples)
{
	double means[opt.samples], maxima[opt.samples], median;
	const unsigned int nr = opt.samples;
	struct utsname kernel;

	for (unsigned int i = 0; i < nr; i++) {
		means[i] = samples[i].mean_ms;
		maxima[i] = samples[i].max_ms;
	}
	qsort(means, nr, sizeof(means[0]), by_value);
	qsort(maxima, nr, sizeof(maxima[0]), by_value);
	median = (means[(nr - 1) / 2] + means[nr / 2]) / 2;
	uname(&kernel);
	printf("# Latency of mmap() and munmap() in ms while /proc/PID/maps is read: %u samples of %g s\n", nr,
	       opt.seconds);
	printf("# column 1: median of the samples' means, the same in each row; columns 2 and 3: their means and\n"
	       "# their maxima, each sorted for itself, so that a row is no sample\n");
	printf("# beside it the series' own first and last rows of 100, on another machine: a reference, not a\n"
	       "# threshold\n");
	printf("#%-28.28s   %-20s   %s\n", kernel.release, "series: before", "series: after");
	printf("#%8s %9s %9s   %6s %6s %6s   %6s %6s %6s\n", "median", "mean", "max", "median", "mean", "max",
	       "median", "mean", "max");
	for (unsigned int i = 0; i < nr; i++) {
		printf(" %8.3f %9.3f %9.3f", median, means[i], maxima[i]);
		print_reference(opposite(before, i, nr));
		print_reference(opposite(after, i, nr));
		putchar('\n');
	}
	for (unsigned int i = 0; i < nr; i++)
		printf("# sample %u: %" PRIu64 " operations, %" PRIu64 " and %" PRIu64 " scans\n", i + 1,
		       samples[i].ops, samples[i].scans[0], samples[i].scans[1]);
}

int seed_table(uint64_t clock_step_ns)
{
	struct sample *samples = mmap(NULL, opt.samples * sizeof(*samples), PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned int faults = 0;

	if (samples == MAP_FAILED)
		die(EXIT_SYSCALL, "shared memory: %s", strerror(errno));
	for (unsigned int i = 0; i < opt.samples; i++) {
		run_sample(&samples[i], i);
		/* five steps at least, as map-latency's own report must have */
		if ((double)clock_step_ns * 5 > samples[i].mean_ms * 1e6)
			fault(&samples[i], "the clock's steps of %" PRIu64 " ns are too coarse", clock_step_ns);
		if (*samples[i].fault) {
			fprintf(stderr, "map-latency: sample %u does not count: %s\n", i + 1, samples[i].fault);
			faults++;
		}
	}
	if (faults) {
		fprintf(stderr, "map-latency: no table: %u of %u samples do not count\n", faults, opt.samples);
		return EXIT_SYSCALL;
	}
	print_table(samples);
	return 0;
}
