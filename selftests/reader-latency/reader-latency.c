// SPDX-License-Identifier: GPL-2.0-only
/*
 * reader-latency: how long one full read of /proc/PID/maps takes, by the number of VMAs in a process that
 * does nothing. README.md explains the choices.
 */
#include "bench.h"
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK (128 * 1024)
#define MAX_SAMPLES 65536
/* Left of vm.max_map_count for the rest of a target. */
#define SPARE_VMAS 200
#define LEAST_READS 3

enum { SECONDS, MOST, ROUNDS, NR_OPTIONS };

static struct bench_option options[NR_OPTIONS] = {
	[SECONDS] = { "seconds", "spent on reading, all sizes together", 9, 0.1, 3600, false },
	[MOST] = { "most", "the largest number of VMAs; fewer if vm.max_map_count is lower", 60000, 100, 1000000,
		   true },
	[ROUNDS] = { "rounds", "in which the time is spent, all sizes in turn", 3, 1, 100, true },
};

static const unsigned int ladder[] = { 100, 300, 1000, 3000, 10000, 30000, 60000 };

struct size {
	unsigned int vmas;
	struct bench_worker target;	/* prepares itself, and sleeps */
	_Atomic long *own_lines;	/* of its maps, counted by itself */
	int fd;
	uint64_t bytes;			/* of one read */
	long lines;
	uint64_t reads, different;
	double *samples_ns;
	struct hist took;
};

static struct size sizes[KT_ARRAY(ladder)];
static unsigned int nr_sizes;
static char buffer[CHUNK];

/* --- targets --- */

static void make_vmas(struct bench_worker *self)
{
	struct size *size = self->arg;
	const long before = maps_own_vmas();
	size_t more;
	char *at;
	int error;

	if (before >= (long)size->vmas)
		bench_cannot("%u VMAs: it has %ld already", size->vmas, before);
	more = size->vmas - (size_t)before;
	at = kt_map(NULL, more * kt_page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	error = kt_split(at, more, PROT_READ, PROT_NONE);
	if (error)
		bench_cannot("%u VMAs: %s", size->vmas, strerror(error));
	atomic_store(size->own_lines, maps_own_vmas());
}

static void start_target(struct size *size)
{
	char path[64];

	size->own_lines = kt_shared(sizeof(*size->own_lines));
	size->samples_ns = malloc(MAX_SAMPLES * sizeof(*size->samples_ns));
	if (!size->samples_ns)
		bench_die("no memory");
	size->target = (struct bench_worker){ .role = "target", .prepare = make_vmas, .slot = kt_cpus() - 1,
					      .arg = size };
	bench_start_process(&size->target);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)bench_pid(&size->target));
	size->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (size->fd < 0)
		bench_die("%s: %s", path, strerror(errno));
}

static void make_sizes(void)
{
	const unsigned long limit = kt_max_map_count();

	for (size_t i = 0; i < KT_ARRAY(ladder) && ladder[i] <= options[MOST].value; i++) {
		if (ladder[i] + SPARE_VMAS > limit)
			break;
		sizes[nr_sizes++].vmas = ladder[i];
	}
	if (nr_sizes < 2)
		bench_cannot("vm.max_map_count is %lu: less than two sizes to compare", limit);
	for (unsigned int i = 0; i < nr_sizes; i++)
		start_target(&sizes[i]);
}

/* --- reading --- */

static void read_for(struct size *size, double seconds)
{
	const uint64_t end = kt_now_ns() + (uint64_t)(seconds * (double)KT_NSEC);
	uint64_t start, now;

	do {
		int64_t bytes;

		start = kt_now_ns();
		bytes = maps_pass(size->fd, buffer, sizeof(buffer), NULL);
		now = kt_now_ns();
		if (bytes < 0)
			bench_die("reading maps of %u VMAs: %s", size->vmas, strerror(errno));
		size->different += (uint64_t)bytes != size->bytes;
		if (size->reads < MAX_SAMPLES)
			size->samples_ns[size->reads] = (double)(now - start);
		size->reads++;
		hist_add(&size->took, now - start);
	} while (now < end);
}

static double median_ns(struct size *size)
{
	return bench_median(size->samples_ns, size->reads < MAX_SAMPLES ? size->reads : MAX_SAMPLES);
}

/* --- what it says --- */

static void report(struct size *size, double median)
{
	char name[64];

	snprintf(name, sizeof(name), "%u VMAs: each read was whole", size->vmas);
	bench_proof(name, size->lines == atomic_load(size->own_lines) && size->lines >= (long)size->vmas &&
		    !size->different && size->reads >= LEAST_READS,
		    "%llu reads, %ld lines where the target counts %ld, %llu reads of another length",
		    (unsigned long long)size->reads, size->lines, atomic_load(size->own_lines),
		    (unsigned long long)size->different);
	snprintf(name, sizeof(name), "%u VMAs: the target slept to the end", size->vmas);
	bench_proof(name, bench_alive(&size->target), "state %c on CPU %d",
		    kt_task_state(bench_pid(&size->target), bench_pid(&size->target)), kt_only_cpu(bench_pid(&size->target)));
	snprintf(name, sizeof(name), "read_us_%u", size->vmas);
	bench_metric(name, median / 1000, "us", "lower", true);
	snprintf(name, sizeof(name), "read_max_us_%u", size->vmas);
	bench_metric(name, (double)size->took.max / 1000, "us", "lower", false);
	snprintf(name, sizeof(name), "read_ns_%u", size->vmas);
	bench_histogram(name, &size->took);
}

/* The natural logarithm by its series in (m - 1) / (m + 1), so that nothing but the C library is linked. */
static double logarithm(double value)
{
	int exponent;
	double mantissa = frexp(value, &exponent), y = (mantissa - 1) / (mantissa + 1), power = y, sum = 0;

	for (int i = 1; i < 40; i += 2) {
		sum += power / i;
		power *= y * y;
	}
	return 2 * sum + exponent * M_LN2;
}

/* Least squares in logarithms: 1 is linear, 2 is quadratic. */
static double slope(const double *medians)
{
	double x = 0, y = 0, xx = 0, xy = 0, n = nr_sizes;

	for (unsigned int i = 0; i < nr_sizes; i++) {
		double at = logarithm((double)sizes[i].lines), of = logarithm(medians[i]);

		x += at;
		y += of;
		xx += at * at;
		xy += at * of;
	}
	return (n * xy - x * y) / (n * xx - x * x);
}

int main(int argc, char **argv)
{
	double medians[KT_ARRAY(ladder)], slice;
	const struct size *last;

	bench_start(argc, argv, "reader-latency", "Time full reads of /proc/PID/maps by the number of VMAs.", options,
		    NR_OPTIONS);
	if (kt_cpus() < 2)
		bench_cannot("needs 2 CPUs, %d may be used", kt_cpus());
	make_sizes();
	(void)kt_pin(0);
	for (unsigned int i = 0; i < nr_sizes; i++) {
		int64_t bytes = maps_pass(sizes[i].fd, buffer, sizeof(buffer), &sizes[i].lines);

		if (bytes < 0)
			bench_die("reading maps of %u VMAs: %s", sizes[i].vmas, strerror(errno));
		sizes[i].bytes = (uint64_t)bytes;
	}
	slice = options[SECONDS].value / options[ROUNDS].value / nr_sizes;
	/* in turn, so that a host that slows down meanwhile slows them all */
	for (unsigned int round = 0; round < (unsigned int)options[ROUNDS].value; round++)
		for (unsigned int i = 0; i < nr_sizes; i++)
			read_for(&sizes[i], slice);
	for (unsigned int i = 0; i < nr_sizes; i++) {
		medians[i] = median_ns(&sizes[i]);
		report(&sizes[i], medians[i]);
	}
	last = &sizes[nr_sizes - 1];
	bench_metric("slope", slope(medians), "ratio", "lower", true);
	bench_metric("ns_per_vma", medians[nr_sizes - 1] / (double)last->lines, "ns", "lower", true);
	bench_parameter("largest", last->vmas);
	bench_proof("the reader was on its CPU", kt_only_cpu(0) == kt_cpu(0), "on %d, %d was asked for",
		    kt_only_cpu(0), kt_cpu(0));
	bench_prove_clock("the shortest read", medians[0]);
	return bench_finish();
}
