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
#include "map-latency.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SCHEMA_VERSION 1
#define SEED_TABLE_SECONDS 10
#define SEED_TABLE_CPUS 4
#define MAX_SAMPLES 1000

static const char *const phase_names[PHASE_KINDS] = { "alone", "scanned" };

struct options opt = {
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
	.samples = 10,
};
struct shared *shared;
struct child children[2 * MAX_CHILDREN];
unsigned int nr_children;
int mapper_nice;
static char *region;
static size_t page_size, active_pages, region_pages;
static struct phase phases[PHASE_KINDS];
static uint64_t rng, clock_step;

_Noreturn void die(int code, const char *format, ...)
{
	va_list args;

	fputs("map-latency: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(code);
}

uint64_t now_ns(void)
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

void sleep_ns(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / NSEC), .tv_nsec = (long)(ns % NSEC) };

	nanosleep(&t, NULL);
}

/*
 * Short pauses spin: the kernel rounds a sleep up by 50 us, and by a whole tick where it found no timer
 * of high resolution, which under emulation differs from boot to boot. The seeds' test sleeps.
 */
static void pause_ns(uint64_t ns)
{
	uint64_t end = now_ns() + ns;

	if (ns >= 100000 || opt.seed_table)
		sleep_ns(ns);
	else
		while (now_ns() < end)
			;
}

void seed_random(uint64_t seed)
{
	rng = seed;
}

/* xorshift64*: the same seed gives the same operations everywhere. */
static uint64_t next_random(void)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return rng * 2685821657736338717ULL;
}

/* --- CPUs and priorities ---------------------------------------------------------------------- */

int pin_self(unsigned int cpu)
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

void read_back(pid_t pid, struct readback *back)
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

static void spin_until_stopped(struct progress *progress, const char *path)
{
	const uint64_t spin_ns = (uint64_t)(opt.busy_ms * 1e6);
	struct stat unused;

	while (!atomic_load(&shared->stop)) {
		uint64_t end = now_ns() + spin_ns;

		/* the seeds' busy task asks for its end in this way: it is gone when the mapper is */
		while (now_ns() < end && !atomic_load_explicit(&shared->stop, memory_order_relaxed))
			if (opt.seed_table && stat(path, &unused))
				break;
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
			spin_until_stopped(progress, path);
	}
}

void start_child(enum role role, unsigned int cpu)
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

void start_children(enum phase_kind kind)
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
void wait_for_idle(void)
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

void read_back_children(struct phase *phase)
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

/* Address space for the region, and how much of it may be used. */
static void reserve_region(void)
{
	const unsigned long limit = max_map_count();

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
}

/*
 * Each page is mapped with probability 1/2, which is what the random operations leave unchanged:
 * were the region to start whole, a quick kernel would break it up more than a slow one and the
 * two would not measure the same thing. A quarter of the pages begin a VMA.
 */
static void make_fragmented_region(void)
{
	size_t page = 0;

	reserve_region();
	while (page < active_pages) {
		size_t first = page;

		while (page < active_pages && (next_random() >> 63))
			page++;
		if (page > first && map_pages(first, page - first))
			die(EXIT_SYSCALL, "mapping %zu pages: %s", page - first, strerror(errno));
		page++; /* the hole that ended the run */
	}
}

/* As the seeds' mapper begins: one mapping, all of it there. */
void make_whole_region(void)
{
	reserve_region();
	if (active_pages < region_pages)
		die(EXIT_CANNOT_RUN, "vm.max_map_count is too low for %zu pages", region_pages);
	if (map_pages(0, region_pages))
		die(EXIT_SYSCALL, "mapping %zu pages: %s", region_pages, strerror(errno));
}

/* Map and unmap random pages, and time it, for the length of a phase. */
void map_and_unmap(struct phase *phase)
{
	uint64_t now, limit;

	phase->start_ns = now = now_ns();
	limit = now + (uint64_t)(opt.seconds * 1e9);
	while (now < limit) {
		uint64_t random = next_random(), start;
		size_t page = (size_t)((random >> 8) % active_pages);
		bool map = random >> 63;
		int result;

		start = now_ns();
		result = map ? map_pages(page, 1) : munmap(region + page * page_size, page_size);
		now = now_ns();
		if (result) {
			phase->errors++;
		} else {
			phase->maps += map;
			phase->unmaps += !map;
			hist_add(&phase->took, now - start);
		}
		if (opt.pause_us) {
			pause_ns(opt.pause_us * 1000);
			now = now_ns();
		}
	}
	phase->end_ns = now_ns();
}

static void run_phase(struct phase *phase)
{
	phase->vmas_before = count_vmas();
	start_children(phase->kind);
	map_and_unmap(phase);
	read_back_children(phase);
	atomic_store(&shared->stop, true);
	read_back(getpid(), &phase->mapper);
	wait_for_idle();
	phase->vmas_after = count_vmas();
}

/* --- output ----------------------------------------------------------------------------------- */

static void print_us(const char *name, const struct phase *phase, double ns)
{
	if (phase->took.count)
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
	printf("    {\"name\": \"%s\", \"seconds\": %.6f, \"ops\": %" PRIu64 ", \"maps\": %" PRIu64
	       ", \"unmaps\": %" PRIu64 ", \"errors\": %" PRIu64 ",\n     ",
	       phase_names[phase->kind], (double)(phase->end_ns - phase->start_ns) / 1e9, phase->took.count, phase->maps,
	       phase->unmaps, phase->errors);
	print_us("mean_us", phase, hist_mean(&phase->took));
	print_us("p50_us", phase, (double)hist_quantile(&phase->took, 0.50));
	print_us("p90_us", phase, (double)hist_quantile(&phase->took, 0.90));
	print_us("p99_us", phase, (double)hist_quantile(&phase->took, 0.99));
	print_us("p999_us", phase, (double)hist_quantile(&phase->took, 0.999));
	print_us("max_us", phase, (double)phase->took.max);
	printf("\n     \"vma_count\": {\"before\": %ld, \"after\": %ld},\n     \"histogram_ns\": ", phase->vmas_before,
	       phase->vmas_after);
	hist_json(&phase->took, stdout);
	printf(",\n     \"mapper\": {\"pid\": %d, ", (int)getpid());
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
	"  --seed-table         run the test of the patch series instead, on 4 CPUs, and print its\n"
	"                       table; takes --samples, --seconds (10), --seed and no other option\n"
	"  --samples N          of that table (10; the series had 100)\n"
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

/* What the patch series ran: two scanners, on CPUs 2 and 3, each beside a task that is busy for 2 ms. */
static void seed_settings(double seconds)
{
	opt.seconds = seconds;
	opt.scanners = 2;
	opt.nr_scanner_cpus = 2;
	opt.scanner_cpus[0] = 2;
	opt.scanner_cpus[1] = 3;
	opt.busy_ms = 2;
	opt.fragments = 0;
}

static void parse_options(int argc, char **argv)
{
	enum { SIZE, SECONDS, PHASES, SCANNERS, FILE_NAME, NICE, MAPPER_CPU, SCANNER_CPUS, BUSY_MS, PAUSE,
	       FRAGMENTS, SEED, SEED_TABLE, SAMPLES, HELP };
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
		{ "seed-table", no_argument, NULL, SEED_TABLE },
		{ "samples", required_argument, NULL, SAMPLES },
		{ "help", no_argument, NULL, HELP },
		{ NULL, 0, NULL, 0 },
	};
	double seconds = SEED_TABLE_SECONDS;
	unsigned int given = 0;
	int which;

	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		const char *name = which >= 0 && which < HELP ? names[which].name : "";

		if (which >= 0 && which < HELP)
			given |= 1U << which;

		switch (which) {
		case SIZE: opt.size_mib = number(name, optarg, 1, 1024 * 1024); break;
		case SECONDS: opt.seconds = seconds = decimal(name, optarg, 86400); break;
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
		case SEED_TABLE: opt.seed_table = true; break;
		case SAMPLES: opt.samples = (unsigned int)number(name, optarg, 1, MAX_SAMPLES); break;
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
	if (opt.seed_table) {
		/* another setting would be another test */
		given &= ~(1U << SECONDS | 1U << SEED | 1U << SEED_TABLE | 1U << SAMPLES);
		if (given)
			die(EXIT_USAGE, "--seed-table does not go with --%s", names[__builtin_ctz(given)].name);
		seed_settings(seconds);
		return;
	}
	if (given & 1U << SAMPLES)
		die(EXIT_USAGE, "--samples is for --seed-table");
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

void make_shared(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die(EXIT_SYSCALL, "shared memory: %s", strerror(errno));
}

/* Before the region exists: the children need no copy of its thousands of VMAs. */
void start_all_children(void)
{
	for (unsigned int i = 0; i < opt.scanners; i++) {
		start_child(SCANNER, opt.scanner_cpus[i % opt.nr_scanner_cpus]);
		if (opt.busy_ms > 0)
			start_child(BUSY, opt.scanner_cpus[i % opt.nr_scanner_cpus]);
	}
}

void end_children(void)
{
	for (unsigned int i = 0; i < nr_children; i++) {
		if (children[i].reaped)
			continue;
		kill(children[i].pid, SIGKILL); /* also one that somebody stopped */
		waitpid(children[i].pid, &children[i].status, 0);
	}
}

static void two_phases(void)
{
	make_shared();
	start_all_children();
	make_fragmented_region();
	wait_for_idle();
	for (unsigned int i = 0; i < opt.nr_phases; i++) {
		phases[i].kind = opt.phases[i];
		run_phase(&phases[i]);
	}
	end_children();
	print_report();
}

int main(int argc, char **argv)
{
	long least;
	int status = 0;

	parse_options(argc, argv);
	least = opt.seed_table ? SEED_TABLE_CPUS : 2;
	seed_random(opt.seed);
	page_size = (size_t)sysconf(_SC_PAGESIZE);
	if (sysconf(_SC_NPROCESSORS_ONLN) < least)
		die(EXIT_CANNOT_RUN, "needs %ld CPUs, %ld online", least, sysconf(_SC_NPROCESSORS_ONLN));
	for (unsigned int i = 0; i < opt.nr_scanner_cpus; i++)
		demand_cpu(opt.scanner_cpus[i]);
	demand_cpu(opt.mapper_cpu);
	clock_step = clock_step_ns();
	errno = 0;
	mapper_nice = getpriority(PRIO_PROCESS, 0);
	if (errno)
		die(EXIT_SYSCALL, "getpriority: %s", strerror(errno));
	signal(SIGPIPE, SIG_IGN);
	if (opt.seed_table)
		status = seed_table(clock_step);
	else
		two_phases();
	if (fflush(stdout) || ferror(stdout))
		die(EXIT_SYSCALL, "standard output: %s", strerror(errno));
	return status;
}
