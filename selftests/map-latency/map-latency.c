// SPDX-License-Identifier: GPL-2.0-only
/*
 * map-latency: how long mmap() and munmap() take while other processes read /proc/PID/maps.
 *
 * One mapper, a thread of this process, maps and unmaps random pages of an anonymous region and times every
 * call. Scanners, processes of low priority on other CPUs, read its maps file whole, over and over. Both phases,
 * "alone" and "scanned", run in one process, so their ratio needs no other baseline. README.md explains the
 * choices.
 */
#include "map-latency.h"

#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Share of the calls of a phase that may fail: one in so many. */
#define ERRORS_IN 100
/* No line of a maps file is shorter: addresses, permissions, offset, device and inode. */
#define LEAST_LINE 40
/* A shorter pause spins. */
#define LEAST_SLEEP_US 100

static const char *const files[] = { "maps", "smaps", "numa_maps", "smaps_rollup", NULL };

struct bench_option options[NR_OPTIONS] = {
	[SIZE_MIB] = { "size-mib", "size of the region", 128, 1, 1024 * 1024, true },
	[SECONDS] = { "seconds", "of each phase, or of each sample of the seeds' table (10)", 5, 0.1, 86400, false },
	[SCANNERS] = { "scanners", "processes that read the mapper's file", 1, 1, MAX_SCANNERS, true },
	[FILE_NAME] = { .name = "file", .help = "what they read: maps, smaps, numa_maps, smaps_rollup", .words = files },
	[NICE] = { "nice", "niceness of the scanners", 15, -20, 19, true },
	[BUSY_MS] = { "busy-ms", "in every phase, a task of normal priority beside each scanner that spins so "
		      "long and sleeps for 1 ms; 0: none", 0, 0, 10000, false },
	[PAUSE_US] = { "pause-us", "pause of the mapper after each call; below 100 it spins", 10, 0, 1000000, true },
	[FRAGMENTS] = { "fragments", "VMAs that the region must have at least", 2000, 0, 10000000, true },
	[SEED] = { "seed", "of the random operations", 1, 0, 1e15, true },
	[SEED_TABLE] = { .name = "seed-table", .help = "run the test of the patch series instead, on 4 CPUs, and print "
			 "its table; goes with --samples, --seconds and --seed only", .flag = true },
	[SAMPLES] = { "samples", "of that table; the series had 100", 10, 1, 1000, true },
};

struct kt_rng rng;
static char *region;
static size_t active_pages, region_pages;

/* --- the readers --- */

static void mapper_path(char *path, size_t size, const char *file)
{
	snprintf(path, size, "/proc/%d/%s", (int)getppid(), file);
}

static void scan(struct bench_worker *self)
{
	static char buffer[128 * 1024];
	struct scanner *scanner = self->arg;
	char path[64];

	mapper_path(path, sizeof(path), files[(size_t)options[FILE_NAME].value]);
	while (!bench_stopped()) {
		uint64_t start = kt_now_ns(), took;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		int64_t bytes = fd < 0 ? -1 : maps_pass(fd, buffer, sizeof(buffer), NULL);

		if (bytes <= 0) {
			atomic_store(&scanner->last_errno, bytes ? errno : ENODATA);
			atomic_fetch_add(&scanner->errors, 1);
			kt_sleep_ns(1000000);
		} else {
			took = kt_now_ns() - start;
			if (took > atomic_load(&scanner->worst_ns))
				atomic_store(&scanner->worst_ns, took);
			atomic_fetch_add(&scanner->bytes, (uint64_t)bytes);
			bench_done(self, 1);
		}
		if (fd >= 0)
			close(fd);
	}
}

static void be_busy(struct bench_worker *self)
{
	const uint64_t busy_ns = (uint64_t)(options[BUSY_MS].value * 1e6);
	struct stat unused;
	char path[64];

	mapper_path(path, sizeof(path), "smaps");
	while (!bench_stopped()) {
		uint64_t end = kt_now_ns() + busy_ns;

		/* the seeds' busy task asks for its end in this way: it is gone when the mapper is */
		while (kt_now_ns() < end && !bench_stopped())
			if (options[SEED_TABLE].value && stat(path, &unused))
				break;
		bench_done(self, 1);
		kt_sleep_ns(1000000);
	}
}

unsigned int start_readers(struct bench_worker *workers, struct scanner *scanners, int first_slot)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < (unsigned int)options[SCANNERS].value; i++) {
		const int slot = first_slot + (int)i % (kt_cpus() - first_slot);

		workers[nr] = (struct bench_worker){ .role = "scanner", .run = scan, .slot = slot, .niced = true,
						     .nice = (int)options[NICE].value, .arg = &scanners[i] };
		bench_start_process(&workers[nr++]);
		if (options[BUSY_MS].value > 0) {
			workers[nr] = (struct bench_worker){ .role = "busy task", .run = be_busy, .slot = slot };
			bench_start_process(&workers[nr++]);
		}
	}
	return nr;
}

/* --- the mapper --- */

static int map_pages(size_t first, size_t count)
{
	void *at = mmap(region + first * kt_page(), count * kt_page(), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0);

	return at == MAP_FAILED ? -1 : 0;
}

/* Address space for the region, and how much of it may be used. */
static void reserve_region(void)
{
	const unsigned long limit = kt_max_map_count();

	region_pages = (size_t)options[SIZE_MIB].value * 1024 * 1024 / kt_page();
	active_pages = region_pages;
	/* Neighbours of different anon_vma do not merge, so there may be up to twice that many. */
	if (limit < 200)
		bench_cannot("vm.max_map_count is %lu", limit);
	if (active_pages / 2 > (limit - 100) / 10 * 9)
		active_pages = (limit - 100) / 10 * 9 * 2;
	if (active_pages < 2 || active_pages / 4 < options[FRAGMENTS].value)
		bench_cannot("%zu usable pages of %zu bytes give about %zu VMAs, --fragments asks for %g", active_pages,
			     kt_page(), active_pages / 4, options[FRAGMENTS].value);

	/* the pages before and behind it stay: the mapper's own stack must not be put into a hole at its edge */
	region = kt_map(NULL, (active_pages + 2) * kt_page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			-1);
	region += kt_page();
	if (munmap(region, active_pages * kt_page()))
		bench_die("munmap: %s", strerror(errno));
}

/*
 * Each page is mapped with probability 1/2, which is what the random operations leave unchanged: were the region to
 * start whole, a quick kernel would break it up more than a slow one and the two would not measure the same
 * thing. A quarter of the pages begin a VMA.
 */
void make_fragmented_region(void)
{
	size_t page = 0;

	reserve_region();
	while (page < active_pages) {
		size_t first = page;

		while (page < active_pages && (kt_random(&rng) >> 63))
			page++;
		if (page > first && map_pages(first, page - first))
			bench_die("mapping %zu pages: %s", page - first, strerror(errno));
		page++; /* the hole that ended the run */
	}
}

/* As the seeds' mapper begins: one mapping, all of it there. */
void make_whole_region(void)
{
	reserve_region();
	if (active_pages < region_pages)
		bench_cannot("vm.max_map_count is too low for %zu pages", region_pages);
	if (map_pages(0, region_pages))
		bench_die("mapping %zu pages: %s", region_pages, strerror(errno));
}

/*
 * Short pauses spin: the kernel rounds a sleep up by 50 us, and by a whole tick where it found no timer of high
 * resolution, which under emulation differs from boot to boot. The seeds' test sleeps.
 */
static void rest(void)
{
	const uint64_t ns = (uint64_t)(options[PAUSE_US].value * 1000);

	if (options[PAUSE_US].value >= LEAST_SLEEP_US || options[SEED_TABLE].value)
		kt_sleep_ns(ns);
	else
		bench_spin_ns(ns);
}

void map_and_unmap(struct bench_worker *self)
{
	struct mapping *mapping = self->arg;

	while (!bench_stopped()) {
		uint64_t random = kt_random(&rng), start, took;
		size_t page = (size_t)((random >> 8) % active_pages);
		int result;

		start = kt_now_ns();
		result = random >> 63 ? map_pages(page, 1) : munmap(region + page * kt_page(), kt_page());
		took = kt_now_ns() - start;
		if (bench_counting()) {
			if (result)
				mapping->errors++;
			else
				hist_add(&mapping->took, took);
		}
		bench_done(self, 1);
		rest();
	}
}

/* --- two phases --- */

struct side {
	struct bench_phase phase;
	struct bench_worker workers[1 + 2 * MAX_SCANNERS];
	struct mapping mapping;
	long before, after;	/* its VMAs */
};

static struct side alone = { .phase.name = "alone" }, scanned = { .phase.name = "scanned" };

/* The mapper, and those of the others that take part. */
static void run_side(struct side *side, const struct bench_worker *others, unsigned int nr)
{
	side->workers[0] = (struct bench_worker){ .role = "mapper", .run = map_and_unmap, .arg = &side->mapping };
	side->phase.workers = side->workers;
	side->phase.nr = 1;
	for (unsigned int i = 0; i < nr; i++)
		if (side == &scanned || others[i].run == be_busy)
			side->workers[side->phase.nr++] = others[i];
	side->before = maps_own_vmas();
	bench_run(&side->phase, options[SECONDS].value);
	side->after = maps_own_vmas();
}

static void report_side(const struct side *side, unsigned int compare)
{
	const char *const phase = side->phase.name;
	const uint64_t ops = side->mapping.took.count, errors = side->mapping.errors;
	char name[64];

	bench_prove_phase(&side->phase);
	snprintf(name, sizeof(name), "%s: the calls succeeded", phase);
	bench_proof(name, errors * ERRORS_IN <= ops + errors, "%" PRIu64 " of %" PRIu64 " mmap or munmap calls failed",
		    errors, ops + errors);
	snprintf(name, sizeof(name), "%s: the region was fragmented", phase);
	bench_proof(name, side->before >= options[FRAGMENTS].value && side->after >= options[FRAGMENTS].value,
		    "%ld VMAs before, %ld after, %g were asked for", side->before, side->after, options[FRAGMENTS].value);
	bench_times("", "us", phase, &side->mapping.took, compare, BENCH_ENOUGH);
	snprintf(name, sizeof(name), "an operation, %s", phase);
	bench_prove_clock(name, hist_mean(&side->mapping.took));
	snprintf(name, sizeof(name), "ops_%s", phase);
	bench_metric(name, (double)ops, "count", "higher", false);
	snprintf(name, sizeof(name), "errors_%s", phase);
	bench_metric(name, (double)errors, "count", "lower", false);
	snprintf(name, sizeof(name), "vmas_%s", phase);
	bench_metric(name, (double)side->before, "count", "higher", false);
}

/* Where the file has a line for each VMA, a scan is as long as there are VMAs. */
static void report_scanner(const struct bench_worker *worker, unsigned int nr)
{
	const struct scanner *scanner = worker->arg;
	const uint64_t scans = bench_counted(worker), bytes = scans ? atomic_load(&scanner->bytes) / scans : 0;
	const uint64_t errors = atomic_load(&scanner->errors);
	const bool by_vma = options[FILE_NAME].value < 2;
	char name[64];

	snprintf(name, sizeof(name), "scanner %u read whole files", nr);
	bench_proof(name, scans && (!by_vma || (double)bytes >= LEAST_LINE * options[FRAGMENTS].value),
		    "%" PRIu64 " scans of %s, %" PRIu64 " bytes each, %" PRIu64 " attempts failed%s%s", scans,
		    files[(size_t)options[FILE_NAME].value], bytes, errors, errors ? ": " : "",
		    errors ? strerror(atomic_load(&scanner->last_errno)) : "");
}

static void two_phases(void)
{
	static struct bench_worker others[2 * MAX_SCANNERS];
	struct scanner *scanners = kt_shared(MAX_SCANNERS * sizeof(*scanners));
	unsigned int nr = start_readers(others, scanners, 1), nr_scanners = 0;
	uint64_t early = 0, worst_ns = 0;
	double scans = 0;

	make_fragmented_region();
	run_side(&alone, others, nr);
	for (unsigned int i = 0; i < nr; i++)
		early += others[i].run == scan ? bench_counted(&others[i]) : 0;
	run_side(&scanned, others, nr);
	report_side(&scanned, BENCH_MEAN | BENCH_P99);
	for (unsigned int i = 1; i < scanned.phase.nr; i++) {
		const struct bench_worker *worker = &scanned.workers[i];

		if (worker->run == scan) {
			report_scanner(worker, ++nr_scanners);
			scans += (double)worker->in_window;
		}
	}
	for (unsigned int i = 0; i < nr_scanners; i++)
		if (atomic_load(&scanners[i].worst_ns) > worst_ns)
			worst_ns = atomic_load(&scanners[i].worst_ns);
	bench_metric("scans", scans, "count", "higher", false);
	bench_metric("worst_scan_ms", (double)worst_ns / 1e6, "ms", "lower", false);
	report_side(&alone, BENCH_MEAN);
	bench_proof("alone: no one scanned", !early, "%" PRIu64 " scans before the scanners were to begin", early);
	bench_metric("interference", hist_mean(&scanned.mapping.took) / hist_mean(&alone.mapping.took), "ratio", "lower",
		     true);
	bench_parameter("active_pages", (double)active_pages);
}

int main(int argc, char **argv)
{
	const int least = 2;

	bench_start(argc, argv, "map-latency",
		    "Time mmap() and munmap() of single pages, alone and while others read /proc/PID/maps.", options,
		    NR_OPTIONS);
	rng.state = (uint64_t)options[SEED].value;
	if (options[SEED_TABLE].given)
		return seed_table();
	if (options[SAMPLES].given)
		bench_usage("--samples is for --seed-table");
	if (kt_cpus() < least)
		bench_cannot("needs %d CPUs, %d may be used", least, kt_cpus());
	/* beside the mapper, so that no other CPU has to be told of what it unmaps */
	(void)kt_pin(0);
	two_phases();
	return bench_finish();
}
