// SPDX-License-Identifier: GPL-2.0-only
/*
 * map-latency: how long mmap() and munmap() take while other processes read /proc/PID/maps.
 *
 * One mapper (this process) maps and unmaps random pages of an anonymous region and times every
 * call. Scanners, processes of low priority on other CPUs, read its maps file whole, over and over.
 * Both phases, "alone" and "scanned", run in one process, so their ratio needs no other baseline.
 * What was asked for is never taken for granted: priority, affinity, progress and life of every
 * process are read back and reported. README.md explains the output.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SCHEMA_VERSION 1
#define MAX_CHILDREN 64
#define MAX_CPUS 1024
#define NSEC 1000000000ULL
#define SUB_BITS 4 /* 16 buckets an octave: each 3 to 6 % wide */
#define SUB (1U << SUB_BITS)
#define BUCKETS ((64 - SUB_BITS + 1) * SUB)

enum { EXIT_SYSCALL = 1, EXIT_USAGE = 2, EXIT_CANNOT_RUN = 4 };
enum role { SCANNER, BUSY };
enum phase_kind { ALONE, SCANNED, PHASE_KINDS };
static const char *const phase_names[PHASE_KINDS] = { "alone", "scanned" };

struct options {
	unsigned long size_mib;
	double seconds;
	unsigned int scanners;
	double busy_ms;
	unsigned int mapper_cpu;
	unsigned int scanner_cpus[MAX_CHILDREN];
	unsigned int nr_scanner_cpus;
	int nice;
	char file[32];
	unsigned long pause_us;
	unsigned long fragments;
	uint64_t seed;
	enum phase_kind phases[PHASE_KINDS];
	unsigned int nr_phases;
};

/* What a child tells its parent, in shared memory; reset by the parent while the child is idle. */
struct progress {
	_Atomic uint64_t scans, bytes, errors, worst_ns, last_end_ns;
	_Atomic int last_errno;
	_Atomic bool idle;
};

struct shared {
	_Atomic bool stop;
	struct progress of[2 * MAX_CHILDREN];
};

struct child {
	pid_t pid;
	enum role role;
	unsigned int cpu;
	int go; /* write end of its pipe; a byte starts it, EOF ends it */
	bool reaped;
	int status;
};

/* A child as it was at the end of a phase. */
struct readback {
	bool alive;
	bool have_nice, have_cpus;
	int nice;
	cpu_set_t *cpus;
	size_t cpus_size;
	uint64_t scans, bytes, errors, worst_ns, last_end_ns;
	int last_errno;
};

struct phase {
	enum phase_kind kind;
	uint64_t start_ns, end_ns;
	uint64_t ops, maps, unmaps, errors, sum_ns, max_ns;
	uint64_t buckets[BUCKETS];
	long vmas_before, vmas_after;
	struct readback mapper, child[2 * MAX_CHILDREN];
};

static struct options opt = {
	.size_mib = 128,
	.seconds = 5,
	.scanners = 1,
	.scanner_cpus = { 1 },
	.nr_scanner_cpus = 1,
	.nice = 15,
	.file = "maps",
	.pause_us = 10,
	.fragments = 2000,
	.seed = 1,
	.phases = { ALONE, SCANNED },
	.nr_phases = 2,
};
static struct shared *shared;
static struct child children[2 * MAX_CHILDREN];
static unsigned int nr_children;
static struct phase phases[PHASE_KINDS];
static char *region;
static size_t page_size, active_pages, region_pages;
static int mapper_nice;
static uint64_t rng, clock_step;

static _Noreturn void die(int code, const char *format, ...)
{
	va_list args;

	fputs("map-latency: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(code);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC + (uint64_t)t.tv_nsec;
}

/* The smallest step the clock was seen to make: a guest without a good clock source counts in 4 ms. */
static uint64_t clock_step_ns(void)
{
	uint64_t smallest = 0, last = now_ns();

	for (unsigned int steps = 0, reads = 0; steps < 20 && reads < 5000000; reads++) {
		uint64_t now = now_ns();

		if (now == last)
			continue;
		if (!smallest || now - last < smallest)
			smallest = now - last;
		last = now;
		steps++;
	}
	return smallest;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / NSEC), .tv_nsec = (long)(ns % NSEC) };

	nanosleep(&t, NULL);
}

/*
 * Short pauses spin: the kernel rounds a sleep up by 50 us, and by a whole tick where it found no timer
 * of high resolution, which under emulation differs from boot to boot.
 */
static void pause_ns(uint64_t ns)
{
	uint64_t end = now_ns() + ns;

	if (ns >= 100000)
		sleep_ns(ns);
	else
		while (now_ns() < end)
			;
}

/* xorshift64*: the same seed gives the same operations everywhere. */
static uint64_t next_random(void)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return rng * 2685821657736338717ULL;
}

/* --- histogram ------------------------------------------------------------------------------- */

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int octave;

	if (ns < SUB)
		return (unsigned int)ns;
	octave = 63U - (unsigned int)__builtin_clzll(ns);
	return (octave - SUB_BITS + 1) * SUB + (unsigned int)((ns >> (octave - SUB_BITS)) & (SUB - 1));
}

/* The largest value that falls into a bucket. */
static uint64_t bucket_upper(unsigned int bucket)
{
	unsigned int octave = bucket / SUB, sub = bucket % SUB;

	if (octave == 0)
		return sub;
	return ((uint64_t)(SUB + sub) << (octave - 1)) + (((uint64_t)1 << (octave - 1)) - 1);
}

static uint64_t quantile_ns(const struct phase *phase, double q)
{
	const double wanted = q * (double)phase->ops;
	uint64_t seen = 0;

	for (unsigned int i = 0; i < BUCKETS; i++) {
		seen += phase->buckets[i];
		if (seen && (double)seen >= wanted) {
			uint64_t upper = bucket_upper(i);

			return upper < phase->max_ns ? upper : phase->max_ns;
		}
	}
	return phase->max_ns;
}

/* --- CPUs and priorities ---------------------------------------------------------------------- */

static int pin_self(unsigned int cpu)
{
	cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
	size_t size = CPU_ALLOC_SIZE(MAX_CPUS);
	int result;

	if (!set)
		return -1;
	CPU_ZERO_S(size, set);
	CPU_SET_S(cpu, size, set);
	result = sched_setaffinity(0, size, set);
	CPU_FREE(set);
	return result;
}

static void read_back(pid_t pid, struct readback *back)
{
	errno = 0;
	back->nice = getpriority(PRIO_PROCESS, (id_t)pid);
	back->have_nice = errno == 0;
	back->cpus_size = CPU_ALLOC_SIZE(MAX_CPUS);
	if (!back->cpus)
		back->cpus = CPU_ALLOC(MAX_CPUS);
	if (back->cpus) {
		CPU_ZERO_S(back->cpus_size, back->cpus);
		back->have_cpus = sched_getaffinity(pid, back->cpus_size, back->cpus) == 0;
	}
}

/* --- children --------------------------------------------------------------------------------- */

static void scan_until_stopped(struct progress *progress, const char *path)
{
	static char buffer[128 * 1024];

	while (!atomic_load(&shared->stop)) {
		uint64_t start = now_ns(), bytes = 0, end;
		ssize_t got = -1;
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			while (!atomic_load_explicit(&shared->stop, memory_order_relaxed) &&
			       (got = read(fd, buffer, sizeof(buffer))) > 0)
				bytes += (uint64_t)got;
		}
		if (fd < 0 || got < 0 || (got == 0 && bytes == 0)) {
			int error = fd >= 0 && got == 0 ? ENODATA : errno;

			/* Not a failure: stopped between opening and the first read. */
			if (!(fd >= 0 && atomic_load(&shared->stop))) {
				atomic_store(&progress->last_errno, error);
				atomic_fetch_add(&progress->errors, 1);
			}
			if (fd >= 0)
				close(fd);
			sleep_ns(1000000);
			continue;
		}
		close(fd);
		end = now_ns();
		if (got > 0) /* stopped half way: no whole scan */
			break;
		if (end - start > atomic_load(&progress->worst_ns))
			atomic_store(&progress->worst_ns, end - start);
		atomic_fetch_add(&progress->bytes, bytes);
		atomic_store(&progress->last_end_ns, end);
		atomic_fetch_add(&progress->scans, 1);
	}
}

static void spin_until_stopped(struct progress *progress)
{
	const uint64_t spin_ns = (uint64_t)(opt.busy_ms * 1e6);

	while (!atomic_load(&shared->stop)) {
		uint64_t end = now_ns() + spin_ns;

		while (now_ns() < end && !atomic_load_explicit(&shared->stop, memory_order_relaxed))
			;
		atomic_store(&progress->last_end_ns, now_ns());
		atomic_fetch_add(&progress->scans, 1);
		sleep_ns(1000000);
	}
}

static _Noreturn void child_main(enum role role, unsigned int cpu, struct progress *progress, int wait_fd,
				 pid_t parent)
{
	char path[64], byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) /* it died before the line above */
		_exit(EXIT_SYSCALL);
	prctl(PR_SET_NAME, role == SCANNER ? "ml-scanner" : "ml-busy");
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)parent, opt.file);
	/* A failure of these two shows when the parent reads them back. */
	(void)pin_self(cpu);
	if (role == SCANNER)
		(void)setpriority(PRIO_PROCESS, 0, opt.nice);
	for (;;) {
		atomic_store(&progress->idle, true);
		if (read(wait_fd, &byte, 1) != 1)
			_exit(0);
		if (role == SCANNER)
			scan_until_stopped(progress, path);
		else
			spin_until_stopped(progress);
	}
}

static void start_child(enum role role, unsigned int cpu)
{
	struct child *child = &children[nr_children];
	pid_t parent = getpid();
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		die(EXIT_SYSCALL, "pipe2: %s", strerror(errno));
	child->role = role;
	child->cpu = cpu;
	child->go = ends[1];
	child->pid = fork();
	if (child->pid < 0)
		die(EXIT_SYSCALL, "fork: %s", strerror(errno));
	if (child->pid == 0) {
		/* Without this a sibling would keep the pipe open after the parent's end of it closed. */
		for (unsigned int i = 0; i <= nr_children; i++)
			close(children[i].go);
		child_main(role, cpu, &shared->of[nr_children], ends[0], parent);
	}
	close(ends[0]);
	nr_children++;
}

static bool is_alive(struct child *child)
{
	if (!child->reaped && waitpid(child->pid, &child->status, WNOHANG) == child->pid)
		child->reaped = true;
	return !child->reaped;
}

static bool takes_part(const struct child *child, enum phase_kind kind)
{
	return child->role == BUSY || kind == SCANNED;
}

static void start_children(enum phase_kind kind)
{
	atomic_store(&shared->stop, false);
	for (unsigned int i = 0; i < nr_children; i++) {
		struct progress *progress = &shared->of[i];

		if (!takes_part(&children[i], kind) || !is_alive(&children[i]))
			continue;
		atomic_store(&progress->scans, 0);
		atomic_store(&progress->bytes, 0);
		atomic_store(&progress->errors, 0);
		atomic_store(&progress->worst_ns, 0);
		atomic_store(&progress->last_end_ns, 0);
		atomic_store(&progress->last_errno, 0);
		atomic_store(&progress->idle, false);
		/* A child that died shows in the readback. */
		if (write(children[i].go, "g", 1) != 1)
			continue;
	}
}

/* Wait until every living child idles; one that does not within ten seconds is killed. */
static void wait_for_idle(void)
{
	uint64_t limit = now_ns() + 10 * NSEC;

	for (unsigned int i = 0; i < nr_children; i++) {
		while (is_alive(&children[i]) && !atomic_load(&shared->of[i].idle)) {
			if (now_ns() > limit)
				kill(children[i].pid, SIGKILL);
			sleep_ns(1000000);
		}
	}
}

static void read_back_children(struct phase *phase)
{
	for (unsigned int i = 0; i < nr_children; i++) {
		struct readback *back = &phase->child[i];
		struct progress *progress = &shared->of[i];

		if (!takes_part(&children[i], phase->kind))
			continue;
		back->scans = atomic_load(&progress->scans);
		back->bytes = atomic_load(&progress->bytes);
		back->errors = atomic_load(&progress->errors);
		back->worst_ns = atomic_load(&progress->worst_ns);
		back->last_end_ns = atomic_load(&progress->last_end_ns);
		back->last_errno = atomic_load(&progress->last_errno);
		back->alive = is_alive(&children[i]);
		if (back->alive)
			read_back(children[i].pid, back);
	}
}

/* --- the mapper ------------------------------------------------------------------------------- */

static int map_pages(size_t first, size_t count)
{
	void *at = mmap(region + first * page_size, count * page_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0);

	return at == MAP_FAILED ? -1 : 0;
}

static long count_vmas(void)
{
	static char buffer[64 * 1024];
	long lines = 0;
	ssize_t got;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die(EXIT_SYSCALL, "/proc/self/maps: %s", strerror(errno));
	while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
		for (ssize_t i = 0; i < got; i++)
			lines += buffer[i] == '\n';
	}
	if (got < 0)
		die(EXIT_SYSCALL, "/proc/self/maps: %s", strerror(errno));
	close(fd);
	return lines;
}

static unsigned long max_map_count(void)
{
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	unsigned long limit = 65530;

	if (file) {
		if (fscanf(file, "%lu", &limit) != 1)
			limit = 65530;
		fclose(file);
	}
	return limit;
}

/*
 * Each page is mapped with probability 1/2, which is what the random operations leave unchanged:
 * were the region to start whole, a quick kernel would break it up more than a slow one and the
 * two would not measure the same thing. A quarter of the pages begin a VMA.
 */
static void make_fragmented_region(void)
{
	const unsigned long limit = max_map_count();
	size_t page = 0;

	region_pages = opt.size_mib * 1024 * 1024 / page_size;
	active_pages = region_pages;
	/* Neighbours of different anon_vma do not merge, so there may be up to twice that many. */
	if (limit < 200)
		die(EXIT_CANNOT_RUN, "vm.max_map_count is %lu", limit);
	if (active_pages / 2 > (limit - 100) / 10 * 9)
		active_pages = (limit - 100) / 10 * 9 * 2;
	if (active_pages < 2 || active_pages / 4 < opt.fragments)
		die(EXIT_CANNOT_RUN, "%zu usable pages of %zu bytes give about %zu VMAs, --fragments asks for %lu",
		    active_pages, page_size, active_pages / 4, opt.fragments);

	region = mmap(NULL, region_pages * page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		      -1, 0);
	if (region == MAP_FAILED || munmap(region, region_pages * page_size))
		die(EXIT_SYSCALL, "a region of %lu MiB: %s", opt.size_mib, strerror(errno));
	while (page < active_pages) {
		size_t first = page;

		while (page < active_pages && (next_random() >> 63))
			page++;
		if (page > first && map_pages(first, page - first))
			die(EXIT_SYSCALL, "mapping %zu pages: %s", page - first, strerror(errno));
		page++; /* the hole that ended the run */
	}
}

static void run_phase(struct phase *phase)
{
	const uint64_t length = (uint64_t)(opt.seconds * 1e9);
	uint64_t now, limit;

	phase->vmas_before = count_vmas();
	start_children(phase->kind);
	phase->start_ns = now = now_ns();
	limit = now + length;
	while (now < limit) {
		uint64_t random = next_random(), start, took;
		size_t page = (size_t)((random >> 8) % active_pages);
		bool map = random >> 63;
		int result;

		start = now_ns();
		result = map ? map_pages(page, 1) : munmap(region + page * page_size, page_size);
		now = now_ns();
		if (result) {
			phase->errors++;
		} else {
			took = now - start;
			phase->ops++;
			phase->maps += map;
			phase->unmaps += !map;
			phase->sum_ns += took;
			if (took > phase->max_ns)
				phase->max_ns = took;
			phase->buckets[bucket_of(took)]++;
		}
		if (opt.pause_us) {
			pause_ns(opt.pause_us * 1000);
			now = now_ns();
		}
	}
	phase->end_ns = now_ns();
	read_back_children(phase);
	atomic_store(&shared->stop, true);
	read_back(getpid(), &phase->mapper);
	wait_for_idle();
	phase->vmas_after = count_vmas();
}

/* --- output ----------------------------------------------------------------------------------- */

static void print_us(const char *name, const struct phase *phase, double ns)
{
	if (phase->ops)
		printf("\"%s\": %.3f, ", name, ns / 1000);
	else
		printf("\"%s\": null, ", name);
}

static void print_placement(const struct readback *back, unsigned int cpu, int nice_requested)
{
	const char *comma = "";

	printf("\"cpu_requested\": %u, \"cpus_actual\": [", cpu);
	for (unsigned int i = 0; back->have_cpus && i < MAX_CPUS; i++) {
		if (CPU_ISSET_S(i, back->cpus_size, back->cpus)) {
			printf("%s%u", comma, i);
			comma = ", ";
		}
	}
	printf("], \"nice_requested\": %d, \"nice_actual\": ", nice_requested);
	if (back->have_nice)
		printf("%d", back->nice);
	else
		printf("null");
}

static void print_children(const struct phase *phase, enum role role)
{
	const char *comma = "";

	for (unsigned int i = 0; i < nr_children; i++) {
		const struct readback *back = &phase->child[i];

		if (children[i].role != role || !takes_part(&children[i], phase->kind))
			continue;
		printf("%s\n      {\"pid\": %d, ", comma, (int)children[i].pid);
		print_placement(back, children[i].cpu, role == SCANNER ? opt.nice : mapper_nice);
		printf(", \"alive\": %s, ", back->alive ? "true" : "false");
		printf("\"%s\": %" PRIu64 ", ", role == SCANNER ? "scans" : "spins", back->scans);
		if (role == SCANNER) {
			printf("\"bytes\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"last_errno\": %d, ", back->bytes,
			       back->errors, back->last_errno);
			printf("\"worst_scan_ms\": %.3f, ", (double)back->worst_ns / 1e6);
		}
		/* Counted back from the end of the phase; a scan that ended before it began is no scan. */
		if (back->last_end_ns >= phase->start_ns)
			printf("\"last_ended_ms_ago\": %.3f}",
			       phase->end_ns > back->last_end_ns ? (double)(phase->end_ns - back->last_end_ns) / 1e6 : 0.0);
		else
			printf("\"last_ended_ms_ago\": null}");
		comma = ",";
	}
}

static void print_phase(const struct phase *phase)
{
	const char *comma = "";

	printf("    {\"name\": \"%s\", \"seconds\": %.6f, \"ops\": %" PRIu64 ", \"maps\": %" PRIu64
	       ", \"unmaps\": %" PRIu64 ", \"errors\": %" PRIu64 ",\n     ",
	       phase_names[phase->kind], (double)(phase->end_ns - phase->start_ns) / 1e9, phase->ops, phase->maps,
	       phase->unmaps, phase->errors);
	print_us("mean_us", phase, phase->ops ? (double)phase->sum_ns / (double)phase->ops : 0);
	print_us("p50_us", phase, (double)quantile_ns(phase, 0.50));
	print_us("p90_us", phase, (double)quantile_ns(phase, 0.90));
	print_us("p99_us", phase, (double)quantile_ns(phase, 0.99));
	print_us("p999_us", phase, (double)quantile_ns(phase, 0.999));
	print_us("max_us", phase, (double)phase->max_ns);
	printf("\n     \"vma_count\": {\"before\": %ld, \"after\": %ld},\n     \"histogram_ns\": [", phase->vmas_before,
	       phase->vmas_after);
	for (unsigned int i = 0; i < BUCKETS; i++) {
		if (phase->buckets[i]) {
			printf("%s[%" PRIu64 ", %" PRIu64 "]", comma, bucket_upper(i), phase->buckets[i]);
			comma = ", ";
		}
	}
	printf("],\n     \"mapper\": {\"pid\": %d, ", (int)getpid());
	print_placement(&phase->mapper, opt.mapper_cpu, mapper_nice);
	printf("},\n     \"scanners\": [");
	print_children(phase, SCANNER);
	printf("],\n     \"busy\": [");
	print_children(phase, BUSY);
	printf("]}");
}

static void print_report(void)
{
	printf("{\"schema_version\": %d,\n \"parameters\": {\"size_mib\": %lu, \"seconds\": %g, \"scanners\": %u, "
	       "\"busy_ms\": %g, \"mapper_cpu\": %u, \"scanner_cpus\": [",
	       SCHEMA_VERSION, opt.size_mib, opt.seconds, opt.scanners, opt.busy_ms, opt.mapper_cpu);
	for (unsigned int i = 0; i < opt.nr_scanner_cpus; i++)
		printf("%s%u", i ? ", " : "", opt.scanner_cpus[i]);
	printf("], \"nice\": %d, \"file\": \"%s\", \"pause_us\": %lu, \"fragments\": %lu, \"seed\": %" PRIu64
	       ", \"phases\": [",
	       opt.nice, opt.file, opt.pause_us, opt.fragments, opt.seed);
	for (unsigned int i = 0; i < opt.nr_phases; i++)
		printf("%s\"%s\"", i ? ", " : "", phase_names[opt.phases[i]]);
	printf("]},\n \"page_size\": %zu, \"active_pages\": %zu, \"cpus_online\": %ld, \"clock_step_ns\": %" PRIu64
	       ",\n \"phases\": [\n",
	       page_size, active_pages, sysconf(_SC_NPROCESSORS_ONLN), clock_step);
	for (unsigned int i = 0; i < opt.nr_phases; i++) {
		print_phase(&phases[i]);
		printf(i + 1 < opt.nr_phases ? ",\n" : "\n");
	}
	printf(" ]}\n");
}

/* --- options ---------------------------------------------------------------------------------- */

static const char usage_text[] =
	"Usage: map-latency [OPTION]...\n"
	"Time mmap() and munmap() of single pages, alone and while others read /proc/PID/maps.\n"
	"One JSON document goes to standard output.\n"
	"\n"
	"  --size-mib N         size of the region (128)\n"
	"  --seconds S          length of each phase (5; may be a fraction)\n"
	"  --phases LIST        alone, scanned or both, in that order (alone,scanned)\n"
	"  --scanners N         processes that read the mapper's file (1)\n"
	"  --file NAME          the file they read: maps or smaps (maps)\n"
	"  --nice N             priority of the scanners, -20 to 19 (15)\n"
	"  --mapper-cpu CPU     where the mapper runs (0)\n"
	"  --scanner-cpus LIST  where the scanners run, in turn (1)\n"
	"  --busy-ms MS         in every phase, a task of normal priority beside each scanner\n"
	"                       that spins so long and sleeps for 1 ms (0: none)\n"
	"  --pause-us US        pause of the mapper after each operation; below 100 it spins (10)\n"
	"  --fragments N        refuse to run with fewer VMAs in the region (2000)\n"
	"  --seed N             of the random operations, not 0 (1)\n"
	"  --help\n"
	"\n"
	"Exit status: 0 done, 1 a system call failed, 2 wrong usage, 4 cannot run here.\n";

static unsigned long number(const char *name, const char *text, unsigned long low, unsigned long high)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value < low || value > high)
		die(EXIT_USAGE, "--%s wants a whole number from %lu to %lu, not '%s'", name, low, high, text);
	return value;
}

static double decimal(const char *name, const char *text, double high)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= 0 && value <= high))
		die(EXIT_USAGE, "--%s wants a number from 0 to %g, not '%s'", name, high, text);
	return value;
}

static int signed_number(const char *name, const char *text, int low, int high)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (end == text || *end || value < low || value > high)
		die(EXIT_USAGE, "--%s wants a whole number from %d to %d, not '%s'", name, low, high, text);
	return (int)value;
}

static void parse_cpus(char *text)
{
	char *rest = NULL;

	opt.nr_scanner_cpus = 0;
	for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		if (opt.nr_scanner_cpus == MAX_CHILDREN)
			die(EXIT_USAGE, "--scanner-cpus takes at most %d CPUs", MAX_CHILDREN);
		opt.scanner_cpus[opt.nr_scanner_cpus++] =
			(unsigned int)number("scanner-cpus", word, 0, MAX_CPUS - 1);
	}
	if (!opt.nr_scanner_cpus)
		die(EXIT_USAGE, "--scanner-cpus names no CPU");
}

static void parse_phases(char *text)
{
	char *rest = NULL;

	opt.nr_phases = 0;
	for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		unsigned int kind = 0;

		while (kind < PHASE_KINDS && strcmp(word, phase_names[kind]))
			kind++;
		if (kind == PHASE_KINDS)
			die(EXIT_USAGE, "--phases knows alone and scanned, not '%s'", word);
		for (unsigned int i = 0; i < opt.nr_phases; i++) {
			if (opt.phases[i] == kind)
				die(EXIT_USAGE, "--phases names '%s' twice", word);
		}
		opt.phases[opt.nr_phases++] = (enum phase_kind)kind;
	}
	if (!opt.nr_phases)
		die(EXIT_USAGE, "--phases names no phase");
}

static void parse_file(const char *text)
{
	/* Nothing but a name directly in /proc/PID, and nothing that would need quoting in JSON. */
	if (!*text || strlen(text) >= sizeof(opt.file) ||
	    strspn(text, "abcdefghijklmnopqrstuvwxyz_") != strlen(text))
		die(EXIT_USAGE, "--file wants the name of a file in /proc/PID, not '%s'", text);
	strcpy(opt.file, text);
}

static void parse_options(int argc, char **argv)
{
	enum { SIZE, SECONDS, PHASES, SCANNERS, FILE_NAME, NICE, MAPPER_CPU, SCANNER_CPUS, BUSY_MS, PAUSE,
	       FRAGMENTS, SEED, HELP };
	static const struct option names[] = {
		{ "size-mib", required_argument, NULL, SIZE },
		{ "seconds", required_argument, NULL, SECONDS },
		{ "phases", required_argument, NULL, PHASES },
		{ "scanners", required_argument, NULL, SCANNERS },
		{ "file", required_argument, NULL, FILE_NAME },
		{ "nice", required_argument, NULL, NICE },
		{ "mapper-cpu", required_argument, NULL, MAPPER_CPU },
		{ "scanner-cpus", required_argument, NULL, SCANNER_CPUS },
		{ "busy-ms", required_argument, NULL, BUSY_MS },
		{ "pause-us", required_argument, NULL, PAUSE },
		{ "fragments", required_argument, NULL, FRAGMENTS },
		{ "seed", required_argument, NULL, SEED },
		{ "help", no_argument, NULL, HELP },
		{ NULL, 0, NULL, 0 },
	};
	int which;

	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		const char *name = which >= 0 && which < HELP ? names[which].name : "";

		switch (which) {
		case SIZE: opt.size_mib = number(name, optarg, 1, 1024 * 1024); break;
		case SECONDS: opt.seconds = decimal(name, optarg, 86400); break;
		case PHASES: parse_phases(optarg); break;
		case SCANNERS: opt.scanners = (unsigned int)number(name, optarg, 0, MAX_CHILDREN); break;
		case FILE_NAME: parse_file(optarg); break;
		case NICE: opt.nice = signed_number(name, optarg, -20, 19); break;
		case MAPPER_CPU: opt.mapper_cpu = (unsigned int)number(name, optarg, 0, MAX_CPUS - 1); break;
		case SCANNER_CPUS: parse_cpus(optarg); break;
		case BUSY_MS: opt.busy_ms = decimal(name, optarg, 10000); break;
		case PAUSE: opt.pause_us = number(name, optarg, 0, 1000000); break;
		case FRAGMENTS: opt.fragments = number(name, optarg, 0, 10000000); break;
		case SEED: opt.seed = number(name, optarg, 1, LONG_MAX); break;
		case HELP:
			fputs(usage_text, stdout);
			exit(0);
		default:
			fputs("Try 'map-latency --help'.\n", stderr);
			exit(EXIT_USAGE);
		}
	}
	if (optind < argc)
		die(EXIT_USAGE, "unexpected argument '%s'", argv[optind]);
	for (unsigned int i = 0; i < opt.nr_scanner_cpus; i++) {
		if (opt.scanner_cpus[i] == opt.mapper_cpu)
			die(EXIT_USAGE, "CPU %u is given both to the mapper and to a scanner", opt.mapper_cpu);
	}
}

static void demand_cpu(unsigned int cpu)
{
	if (pin_self(cpu))
		die(EXIT_CANNOT_RUN, "CPU %u cannot be used here: %s", cpu, strerror(errno));
}

int main(int argc, char **argv)
{
	parse_options(argc, argv);
	rng = opt.seed;
	page_size = (size_t)sysconf(_SC_PAGESIZE);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		die(EXIT_CANNOT_RUN, "needs 2 CPUs, %ld online", sysconf(_SC_NPROCESSORS_ONLN));
	for (unsigned int i = 0; i < opt.nr_scanner_cpus; i++)
		demand_cpu(opt.scanner_cpus[i]);
	demand_cpu(opt.mapper_cpu);
	clock_step = clock_step_ns();
	errno = 0;
	mapper_nice = getpriority(PRIO_PROCESS, 0);
	if (errno)
		die(EXIT_SYSCALL, "getpriority: %s", strerror(errno));
	signal(SIGPIPE, SIG_IGN);

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die(EXIT_SYSCALL, "shared memory: %s", strerror(errno));
	/* Before the region exists: the children need no copy of its thousands of VMAs. */
	for (unsigned int i = 0; i < opt.scanners; i++) {
		start_child(SCANNER, opt.scanner_cpus[i % opt.nr_scanner_cpus]);
		if (opt.busy_ms > 0)
			start_child(BUSY, opt.scanner_cpus[i % opt.nr_scanner_cpus]);
	}
	make_fragmented_region();
	wait_for_idle();
	for (unsigned int i = 0; i < opt.nr_phases; i++) {
		phases[i].kind = opt.phases[i];
		run_phase(&phases[i]);
	}
	for (unsigned int i = 0; i < nr_children; i++) {
		if (children[i].reaped)
			continue;
		kill(children[i].pid, SIGKILL); /* also one that somebody stopped */
		waitpid(children[i].pid, &children[i].status, 0);
	}
	print_report();
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_SYSCALL, "standard output: %s", strerror(errno));
	return 0;
}
