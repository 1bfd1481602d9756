// SPDX-License-Identifier: GPL-2.0-only
/*
 * reader-latency: how long one full read of /proc/PID/maps takes, by the number of VMAs in a process that
 * does nothing. README.md explains the choices.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

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
	pid_t pid;
	int fd;
	struct told {
		_Atomic bool ready;
		_Atomic int error;
		_Atomic long lines;	/* of its maps, counted by itself */
	} *told;
	uint64_t bytes;			/* of one read */
	long lines;
	uint64_t reads, different;
	double *samples_ns;
	struct hist took;
};

static struct size sizes[KT_ARRAY(ladder)];
static unsigned int nr_sizes;
static char buffer[CHUNK];

/* Bytes of a file from its start to its end; -1 and errno. */
static int64_t read_whole(int fd, long *lines)
{
	int64_t bytes = 0;
	ssize_t got;

	if (lseek(fd, 0, SEEK_SET))
		return -1;
	while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
		bytes += got;
		for (ssize_t i = 0; lines && i < got; i++)
			*lines += buffer[i] == '\n';
	}
	return got < 0 ? -1 : bytes;
}

/* --- targets --- */

static long own_lines(void)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	long lines = 0;

	if (fd < 0 || read_whole(fd, &lines) < 0)
		return -1;
	close(fd);
	return lines;
}

static _Noreturn void be_a_target(struct size *size)
{
	int error = ERANGE;
	long before;

	(void)kt_pin(kt_cpus() - 1);
	before = own_lines();
	if (before >= 0 && before < (long)size->vmas) {
		size_t more = size->vmas - (size_t)before;
		char *at = kt_map(NULL, more * kt_page(), PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

		error = kt_split(at, more, PROT_READ, PROT_NONE);
	}
	atomic_store(&size->told->error, error);
	atomic_store(&size->told->lines, own_lines());
	atomic_store(&size->told->ready, true);
	for (;;)
		pause();
}

static void start_target(struct size *size)
{
	char path[64];

	size->told = kt_shared(sizeof(*size->told));
	size->samples_ns = malloc(MAX_SAMPLES * sizeof(*size->samples_ns));
	if (!size->samples_ns)
		bench_die("no memory");
	size->pid = kt_fork();
	if (!size->pid)
		be_a_target(size);
	while (!atomic_load(&size->told->ready)) {
		if (waitpid(size->pid, NULL, WNOHANG))
			bench_die("the target of %u VMAs ended at once", size->vmas);
		kt_sleep_ns(1000000);
	}
	if (atomic_load(&size->told->error))
		bench_cannot("%u VMAs: %s", size->vmas, strerror(atomic_load(&size->told->error)));
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)size->pid);
	size->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (size->fd < 0)
		bench_die("%s: %s", path, strerror(errno));
}

static void make_sizes(void)
{
	char text[32] = "65530";
	unsigned long limit;

	kt_read_file("/proc/sys/vm/max_map_count", text, sizeof(text));
	limit = strtoul(text, NULL, 10);
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
		bytes = read_whole(size->fd, NULL);
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

static int by_value(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

static double median_ns(struct size *size)
{
	size_t nr = size->reads < MAX_SAMPLES ? size->reads : MAX_SAMPLES;

	qsort(size->samples_ns, nr, sizeof(*size->samples_ns), by_value);
	return (size->samples_ns[(nr - 1) / 2] + size->samples_ns[nr / 2]) / 2;
}

/* --- what it says --- */

static void report(struct size *size, double median)
{
	char name[64];

	snprintf(name, sizeof(name), "%u VMAs: each read was whole", size->vmas);
	bench_proof(name, size->lines == atomic_load(&size->told->lines) && size->lines >= (long)size->vmas &&
		    !size->different && size->reads >= LEAST_READS,
		    "%llu reads, %ld lines where the target counts %ld, %llu reads of another length",
		    (unsigned long long)size->reads, size->lines, atomic_load(&size->told->lines),
		    (unsigned long long)size->different);
	snprintf(name, sizeof(name), "%u VMAs: the target slept to the end", size->vmas);
	bench_proof(name, !waitpid(size->pid, NULL, WNOHANG), "state %c on CPU %d",
		    kt_task_state(size->pid, size->pid), kt_only_cpu(size->pid));
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
		int64_t bytes = read_whole(sizes[i].fd, &sizes[i].lines);

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
	for (unsigned int i = 0; i < nr_sizes; i++) {
		kill(sizes[i].pid, SIGKILL);
		waitpid(sizes[i].pid, NULL, 0);
	}
	return bench_finish();
}
