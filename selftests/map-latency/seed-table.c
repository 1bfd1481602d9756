// SPDX-License-Identifier: GPL-2.0-only
/*
 * The test that the patch series was measured with, and its table: a mapper that begins with one mapping of
 * 128 MiB, two scanners of niceness 15 on CPUs 2 and 3, each beside a task that is busy for 2 ms and sleeps
 * for 1 ms. README.md tells what the columns mean, and what differs from the original.
 */
#include "map-latency.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEED_SECONDS 10
#define SEED_SCANNERS 2
#define SEED_FIRST_CPU 2
#define SEED_BUSY_MS 2
#define SHOWN 4 /* rows at either end that the series shows */

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
	struct mapping mapping;
	uint64_t scans[SEED_SCANNERS];
};

static struct bench_worker workers[1 + 2 * SEED_SCANNERS];
static unsigned int nr_workers;

/* The mapper begins when both are scanning, as the original does. */
static void map_when_scanned(struct bench_worker *self)
{
	for (unsigned int i = 1; i < nr_workers; i++)
		while (!bench_counted(&workers[i]) && !bench_stopped())
			kt_sleep_ns(1000000);
	map_and_unmap(self);
}

static _Noreturn void be_a_sample(struct sample *sample, unsigned int nr)
{
	struct bench_phase phase = { .name = "sample", .workers = workers };
	struct scanner *scanners = kt_shared(SEED_SCANNERS * sizeof(*scanners));
	const struct hist *took = &sample->mapping.took;
	unsigned int scanner = 0;

	rng.state = (uint64_t)options[SEED].value + nr;
	workers[0] = (struct bench_worker){ .role = "mapper", .run = map_when_scanned, .arg = &sample->mapping };
	phase.nr = nr_workers = 1 + start_readers(workers + 1, scanners, SEED_FIRST_CPU);
	make_whole_region();
	bench_run(&phase, options[SECONDS].value);
	bench_prove_phase(&phase);
	bench_prove_clock("an operation", hist_mean(took));
	bench_proof("no call failed", took->count && !sample->mapping.errors, "%" PRIu64 " calls, %" PRIu64 " that failed",
		    took->count + sample->mapping.errors, sample->mapping.errors);
	bench_doubt(sample->fault, sizeof(sample->fault));
	for (unsigned int i = 1; i < phase.nr; i++)
		if (workers[i].niced)
			sample->scans[scanner++] = workers[i].in_window;
	bench_end_processes();
	sample->done = true;
	_exit(0);
}

static void run_sample(struct sample *sample, unsigned int nr)
{
	pid_t child = kt_fork();
	int status = 0;

	if (!child)
		be_a_sample(sample, nr);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (!sample->done)
		snprintf(sample->fault, sizeof(sample->fault), "its mapper ended with status %#x", (unsigned int)status);
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

static void print_table(const struct sample *samples, unsigned int nr)
{
	double means[nr], maxima[nr], median;
	struct utsname kernel;

	for (unsigned int i = 0; i < nr; i++) {
		means[i] = hist_mean(&samples[i].mapping.took) / 1e6;
		maxima[i] = (double)samples[i].mapping.took.max / 1e6;
	}
	median = bench_median(means, nr);
	bench_median(maxima, nr);
	uname(&kernel);
	printf("# Latency of mmap() and munmap() in ms while /proc/PID/maps is read: %u samples of %g s\n", nr,
	       options[SECONDS].value);
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
		       samples[i].mapping.took.count, samples[i].scans[0], samples[i].scans[1]);
}

/* What the patch series ran, whatever is the default of this program. */
static void take_settings(void)
{
	for (unsigned int i = 0; i < NR_OPTIONS; i++)
		if (options[i].given && i != SECONDS && i != SEED && i != SEED_TABLE && i != SAMPLES)
			bench_usage("--seed-table does not go with --%s: it would be another test", options[i].name);
	if (!options[SECONDS].given)
		options[SECONDS].value = SEED_SECONDS;
	options[SCANNERS].value = SEED_SCANNERS;
	options[BUSY_MS].value = SEED_BUSY_MS;
	options[FRAGMENTS].value = 0;
}

int seed_table(void)
{
	const unsigned int nr = (unsigned int)options[SAMPLES].value;
	unsigned int faults = 0;
	struct sample *samples;

	take_settings();
	if (kt_cpus() < SEED_FIRST_CPU + SEED_SCANNERS)
		bench_cannot("needs %d CPUs, %d may be used", SEED_FIRST_CPU + SEED_SCANNERS, kt_cpus());
	samples = kt_shared(nr * sizeof(*samples));
	for (unsigned int i = 0; i < nr; i++) {
		run_sample(&samples[i], i);
		if (*samples[i].fault) {
			fprintf(stderr, "map-latency: sample %u does not count: %s\n", i + 1, samples[i].fault);
			faults++;
		}
	}
	if (faults)
		bench_die("no table: %u of %u samples do not count", faults, nr);
	print_table(samples, nr);
	if (fflush(stdout) || ferror(stdout))
		bench_die("standard output: %s", strerror(errno));
	return 0;
}
