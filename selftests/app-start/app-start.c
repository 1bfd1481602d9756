// SPDX-License-Identifier: GPL-2.0-only
/*
 * app-start: how long a process needs to start many threads that each map and touch memory, while libraries
 * are mapped, touched and unmapped beside them. README.md explains the choices.
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_THREADS 256
#define MAX_LIBRARIES 128
#define MAX_CPUS 1024
#define STACK (256UL * 1024)
#define CHUNK_PAGES 16
/* A library: read-only headers, text, constants and writable data, of so many pages each. */
#define SEGMENT_PAGES 16
#define SEGMENTS 4
#define LIBRARY_PAGES (SEGMENTS * SEGMENT_PAGES)
/* One page in so many of a library is touched. */
#define EVERY 4
#define LEAST_STARTS 10
/* One touch in so many is timed: reading the clock costs, too. */
#define TIMED 16

enum { SECONDS, THREADS, PAGES, LIBRARIES, NR_OPTIONS };

static struct bench_option options[NR_OPTIONS] = {
	[SECONDS] = { "seconds", "of starts, one after the other", 9, 0.1, 3600, false },
	[THREADS] = { "threads", "that each start makes", 32, 1, MAX_THREADS, true },
	[PAGES] = { "pages", "that each thread maps, 16 at a time, and touches", 64, 16, 65536, true },
	[LIBRARIES] = { "libraries", "that are mapped meanwhile; every second one is unmapped again", 16, 1,
			MAX_LIBRARIES, true },
};

struct thread {
	pthread_t id;
	char *stack;
	char *chunks[65536 / CHUNK_PAGES];
	struct hist took;
	uint64_t touched;
	int cpu;
} BENCH_LINE;

static struct thread threads[MAX_THREADS];
static int library_files[MAX_LIBRARIES];
static char *libraries[MAX_LIBRARIES];
static struct hist start_took, library_took, fault_took;
static uint64_t starts, finished, loaded, unloaded, touched, wrong, on_cpu[MAX_CPUS];

static void *map(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
	void *got = mmap(at, length, prot, MAP_PRIVATE | flags, fd, offset);

	if (got == MAP_FAILED)
		bench_die("mmap of %zu bytes: %s", length, strerror(errno));
	return got;
}

static void unmap(void *at, size_t length)
{
	if (munmap(at, length))
		bench_die("munmap of %zu bytes: %s", length, strerror(errno));
}

/* --- threads --- */

static void *be_a_thread(void *arg)
{
	const size_t page = kt_page(), nr = (size_t)options[PAGES].value / CHUNK_PAGES;
	struct thread *self = arg;

	for (size_t chunk = 0; chunk < nr; chunk++) {
		char *at = map(NULL, CHUNK_PAGES * page, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1, 0);

		madvise(at, CHUNK_PAGES * page, MADV_NOHUGEPAGE);
		self->chunks[chunk] = at;
		for (unsigned int i = 0; i < CHUNK_PAGES; i++) {
			if (self->touched++ % TIMED) {
				*(volatile char *)(at + i * page) = 1;
			} else {
				uint64_t start = kt_now_ns();

				*(volatile char *)(at + i * page) = 1;
				hist_add(&self->took, kt_now_ns() - start);
			}
		}
	}
	self->cpu = sched_getcpu();
	return NULL;
}

/* With a stack mapped for it, and a guard page below: the C library would use an old one again. */
static void start_thread(struct thread *thread)
{
	pthread_attr_t attributes;
	int error;

	thread->stack = map(NULL, STACK + kt_page(), PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (mprotect(thread->stack, kt_page(), PROT_NONE))
		bench_die("mprotect: %s", strerror(errno));
	pthread_attr_init(&attributes);
	error = pthread_attr_setstack(&attributes, thread->stack + kt_page(), STACK);
	if (!error)
		error = pthread_create(&thread->id, &attributes, be_a_thread, thread);
	if (error)
		bench_die("a thread: %s", strerror(error));
	pthread_attr_destroy(&attributes);
}

static void end_thread(struct thread *thread)
{
	const size_t nr = (size_t)options[PAGES].value / CHUNK_PAGES;

	for (size_t chunk = 0; chunk < nr; chunk++)
		unmap(thread->chunks[chunk], CHUNK_PAGES * kt_page());
	unmap(thread->stack, STACK + kt_page());
	if (thread->cpu >= 0 && thread->cpu < MAX_CPUS)
		on_cpu[thread->cpu]++;
}

/* --- libraries --- */

static void make_library_files(void)
{
	const size_t page = kt_page();

	for (unsigned int i = 0; i < (unsigned int)options[LIBRARIES].value; i++) {
		library_files[i] = memfd_create("library", MFD_CLOEXEC);
		if (library_files[i] < 0 || ftruncate(library_files[i], (off_t)(LIBRARY_PAGES * page)))
			bench_die("a file in memory: %s", strerror(errno));
		for (uint64_t nr = 0; nr < LIBRARY_PAGES; nr++) {
			uint64_t mark = (uint64_t)i << 32 | (nr + 1);

			if (pwrite(library_files[i], &mark, sizeof(mark), (off_t)(nr * page)) != sizeof(mark))
				bench_die("a file in memory: %s", strerror(errno));
		}
	}
}

/* As a dynamic loader does: the whole first, then the segments over it, then what is relocated is written. */
static void load(unsigned int nr)
{
	static const int prots[SEGMENTS] = { PROT_READ, PROT_READ | PROT_EXEC, PROT_READ, PROT_READ | PROT_WRITE };
	const size_t page = kt_page(), segment = SEGMENT_PAGES * page;
	char *at = map(NULL, SEGMENTS * segment, prots[0], 0, library_files[nr], 0);

	for (unsigned int i = 1; i < SEGMENTS; i++)
		map(at + i * segment, segment, prots[i], MAP_FIXED, library_files[nr], (off_t)(i * segment));
	for (uint64_t i = 0; i < LIBRARY_PAGES; i += EVERY) {
		volatile uint64_t *word = (volatile uint64_t *)(at + i * page);

		wrong += *word != ((uint64_t)nr << 32 | (i + 1));
		if (i >= LIBRARY_PAGES - SEGMENT_PAGES)
			*word = 1;
		touched++;
	}
	libraries[nr] = at;
	loaded++;
}

static void unload(unsigned int nr)
{
	unmap(libraries[nr], LIBRARY_PAGES * kt_page());
	libraries[nr] = NULL;
	unloaded++;
}

/* --- starts --- */

static void start_once(void)
{
	const unsigned int nr_threads = (unsigned int)options[THREADS].value;
	const unsigned int nr_libraries = (unsigned int)options[LIBRARIES].value;
	uint64_t since = kt_now_ns(), before;

	for (unsigned int i = 0; i < nr_threads; i++)
		start_thread(&threads[i]);
	for (unsigned int i = 0; i < nr_libraries; i++) {
		before = kt_now_ns();
		load(i);
		hist_add(&library_took, kt_now_ns() - before);
		if (i & 1)
			unload(i);
	}
	for (unsigned int i = 0; i < nr_threads; i++)
		finished += !pthread_join(threads[i].id, NULL);
	hist_add(&start_took, kt_now_ns() - since);
	starts++;
	for (unsigned int i = 0; i < nr_threads; i++)
		end_thread(&threads[i]);
	for (unsigned int i = 0; i < nr_libraries; i++)
		if (libraries[i])
			unload(i);
}

static uint64_t faults(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_SELF, &usage))
		bench_die("getrusage: %s", strerror(errno));
	return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

static void report(uint64_t faulted, double seconds)
{
	const uint64_t nr_threads = (uint64_t)options[THREADS].value, nr_libraries = (uint64_t)options[LIBRARIES].value;
	unsigned int cpus = 0;

	for (uint64_t i = 0; i < nr_threads; i++) {
		touched += threads[i].touched;
		hist_merge(&fault_took, &threads[i].took);
	}
	for (unsigned int i = 0; i < MAX_CPUS; i++)
		cpus += on_cpu[i] * 20 >= finished; /* a twentieth of the threads at least */
	bench_proof("every thread finished", finished == starts * nr_threads && finished,
		    "%" PRIu64 " threads in %" PRIu64 " starts", finished, starts);
	bench_proof("every library was mapped, and unmapped", loaded == starts * nr_libraries && unloaded == loaded,
		    "%" PRIu64 " mapped, %" PRIu64 " unmapped, in %" PRIu64 " starts", loaded, unloaded, starts);
	bench_proof("the libraries held their data", !wrong, "%" PRIu64 " pages with other data", wrong);
	bench_proof("touches were faults", faulted >= touched / 10 * 8, "%" PRIu64 " touches, %" PRIu64 " faults",
		    touched, faulted);
	bench_proof("the threads ran on several CPUs", cpus >= 2, "on %u CPUs", cpus);
	bench_times("start", "us", "", &start_took, BENCH_MEAN, LEAST_STARTS);
	bench_times("library", "us", "", &library_took, BENCH_MEAN, BENCH_ENOUGH);
	bench_times("fault", "ns", "", &fault_took, 0, BENCH_ENOUGH);
	bench_metric("faults_per_s", (double)faulted / seconds, "1/s", "higher", false);
	bench_prove_clock("a fault", hist_mean(&fault_took));
}

int main(int argc, char **argv)
{
	uint64_t since, end, before;

	bench_start(argc, argv, "app-start", "Time starts of many threads that fault while libraries are mapped.",
		    options, NR_OPTIONS);
	if (kt_cpus() < 2)
		bench_cannot("needs 2 CPUs, %d may be used", kt_cpus());
	make_library_files();
	/* the first one is not like the others: nothing is in any cache yet */
	start_once();
	memset(&start_took, 0, sizeof(start_took));
	memset(&library_took, 0, sizeof(library_took));
	for (unsigned int i = 0; i < MAX_THREADS; i++) {
		memset(&threads[i].took, 0, sizeof(threads[i].took));
		threads[i].touched = 0;
	}
	starts = finished = loaded = unloaded = touched = 0;
	memset(on_cpu, 0, sizeof(on_cpu));
	before = faults();
	since = kt_now_ns();
	end = since + (uint64_t)(options[SECONDS].value * (double)KT_NSEC);
	while (kt_now_ns() < end)
		start_once();
	report(faults() - before, (double)(kt_now_ns() - since) / (double)KT_NSEC);
	return bench_finish();
}
