// SPDX-License-Identifier: GPL-2.0-only
/*
 * mm-stress: page faults, changes of the address space and all readers of /proc at once. Each case proves
 * that all sides got on and that no page held anything but its own data; what the kernel's own checks say
 * about it (lockdep, KASAN, KCSAN) is on the console.
 */
#include "stress.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define CASE_S 1.3
#define MIXED_S 3
#define FAULTERS 2
/* Beyond its time a case goes on until all have done the least, on a fast machine so long at most. */
#define NICE 5
#define BURST 8
#define PAUSE_NS 1000000
#define GRACE_S 10
#define LEAST_FAULTS 100
#define LEAST_CHANGES 10
#define LEAST_PASSES 2
#define LEAST_ANSWERS 20
#define LEAST_SPECIAL 1

struct shared *shared;

struct changer {
	struct kind *kind;
	uint64_t seed;
};

/* Making a thread maps its stack, and no hole may be there yet for it to fall into. */
static pthread_barrier_t all_made;

/* A dozen threads would leave the only reader inside too little of two CPUs. */
static void be_nice(void)
{
	setpriority(PRIO_PROCESS, 0, NICE);
}

static void *fault(void *seed)
{
	be_nice();
	return faulter(seed);
}

static void *change(void *of)
{
	struct changer *changer = of;
	struct kt_rng rng = { changer->seed };

	be_nice();
	pthread_barrier_wait(&all_made);
	while (!atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
		if (!kt_below(&rng, BURST))
			kt_sleep_ns(kt_below(&rng, PAUSE_NS));
		bool done = changer->kind->change(changer->kind, &rng);

		atomic_fetch_add_explicit(done ? &changer->kind->changes : &changer->kind->refused, 1,
					  memory_order_relaxed);
	}
	return NULL;
}

static void *read_inside(void *unused)
{
	read_files("/proc/self", INSIDE);
	return unused;
}

static pid_t start_reader_outside(void)
{
	pid_t child = kt_fork();
	char proc[32];

	if (child)
		return child;
	snprintf(proc, sizeof(proc), "/proc/%d", (int)getppid());
	read_files(proc, OUTSIDE);
	_exit(0);
}

static pthread_t start(void *(*run)(void *), void *arg)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, run, arg);

	if (error)
		kt_inconclusive("a thread: %s", strerror(error));
	return thread;
}

static uint64_t least_passes(int file)
{
	return file == FILE_QUERY ? LEAST_ANSWERS : LEAST_PASSES;
}

static bool all_got_on(struct kind *const *used, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		if (used[i]->changes < LEAST_CHANGES || (used[i]->special && used[i]->nr_special < LEAST_SPECIAL))
			return false;
	for (int side = 0; side < NR_SIDES; side++)
		for (int file = 0; file < NR_FILES; file++)
			if (!shared->absent[file] && shared->passes[side][file] < least_passes(file))
				return false;
	return shared->faults >= LEAST_FAULTS;
}

static void count_work(struct kind *const *used, unsigned int nr)
{
	static const char *const sides[] = { [INSIDE] = "inside", [OUTSIDE] = "outside" };
	uint64_t refused = 0;
	char name[40];

	kt_work("faults", shared->faults, LEAST_FAULTS);
	for (unsigned int i = 0; i < nr; i++) {
		kt_work(used[i]->name, used[i]->changes, LEAST_CHANGES);
		if (used[i]->special)
			kt_work(used[i]->special, used[i]->nr_special, LEAST_SPECIAL);
		refused += used[i]->refused;
	}
	for (int file = 0; file < NR_FILES; file++) {
		for (int side = 0; side < NR_SIDES; side++) {
			snprintf(name, sizeof(name), "%s_%s", file_names[file], sides[side]);
			if (!shared->absent[file])
				kt_work(name, shared->passes[side][file], least_passes(file));
		}
	}
	kt_detail("%llu touches, %llu of them ended by a signal; %llu changes refused",
		  (unsigned long long)shared->touches, (unsigned long long)shared->traps,
		  (unsigned long long)refused);
}

static void end_reader(pid_t reader)
{
	int status = 0;

	while (waitpid(reader, &status, 0) < 0 && errno == EINTR)
		;
	/* as it would end if a case inside was skipped: that is told elsewhere */
	if (WIFSIGNALED(status))
		kt_fail("the reader outside was killed by signal %d", WTERMSIG(status));
}

static void stress(struct kind *const *used, unsigned int nr)
{
	pthread_t changers[nr_kinds], servers[nr_kinds], faulters[FAULTERS], inside;
	struct changer arguments[nr_kinds];
	unsigned int nr_servers = 0;
	uint64_t patience;
	pid_t outside;

	pthread_barrier_init(&all_made, NULL, nr + 1);
	readers_make();
	catch_traps();
	outside = start_reader_outside();
	for (unsigned int i = 0; i < nr; i++)
		if (used[i]->server)
			servers[nr_servers++] = start(used[i]->server, used[i]);
	inside = start(read_inside, NULL);
	for (unsigned int i = 0; i < FAULTERS; i++)
		faulters[i] = start(fault, (void *)(uintptr_t)(kt_seed() + i));
	for (unsigned int i = 0; i < nr; i++) {
		arguments[i] = (struct changer){ used[i], kt_seed() + 100 + i };
		changers[i] = start(change, &arguments[i]);
	}
	pthread_barrier_wait(&all_made);
	while (!kt_over())
		kt_sleep_ns(10000000);
	patience = kt_now_ns() + (uint64_t)(GRACE_S * kt_factor() * (double)KT_NSEC);
	while (!all_got_on(used, nr) && kt_now_ns() < patience)
		kt_sleep_ns(10000000);
	atomic_store(&shared->stop, true);
	for (unsigned int i = 0; i < nr; i++)
		pthread_join(changers[i], NULL);
	for (unsigned int i = 0; i < FAULTERS; i++)
		pthread_join(faulters[i], NULL);
	pthread_join(inside, NULL);
	for (unsigned int i = 0; i < nr; i++)
		if (used[i]->finish)
			used[i]->finish(used[i]);
	/* those of userfaultfd are still served */
	for (unsigned int i = 0; i < nr_arenas; i++)
		arena_verify(&arenas[i]);
	atomic_store(&shared->stop_server, true);
	for (unsigned int i = 0; i < nr_servers; i++)
		pthread_join(servers[i], NULL);
	end_reader(outside);
	count_work(used, nr);
	for (int file = 0; file < NR_FILES; file++)
		if (shared->absent[file])
			kt_note("this kernel has no %s", file == FILE_QUERY ? "PROCMAP_QUERY" : file_names[file]);
}

static void make_shared(void)
{
	shared = kt_shared(sizeof(*shared));
}

static void run_one(const void *name)
{
	make_shared();
	for (unsigned int i = 0; i < nr_kinds; i++) {
		struct kind *kind = &kinds[i];
		const char *why;

		if (strcmp(kind->name, name))
			continue;
		why = kind->make(kind);
		if (why)
			kt_skip("%s", why);
		stress(&kind, 1);
	}
}

static void run_all(const void *unused)
{
	struct kind *used[nr_kinds];
	unsigned int nr = 0;

	(void)unused;
	make_shared();
	for (unsigned int i = 0; i < nr_kinds; i++) {
		const char *why = kinds[i].make(&kinds[i]);

		if (why)
			kt_note("without %s: %s", kinds[i].name, why);
		else
			used[nr++] = &kinds[i];
	}
	stress(used, nr);
}

#define CASE(kind, what) { "under." kind, "faults and readers go on, data stay right, under " what, run_one, \
			   kind, CASE_S, 0 }

int main(int argc, char **argv)
{
	static const struct kt_case cases[] = {
		CASE("munmap", "munmap and mmap of what is touched"),
		CASE("dontneed", "MADV_DONTNEED and MADV_FREE, of a shared file too"),
		CASE("collapse", "MADV_COLLAPSE of memory and of a file, split again"),
		CASE("truncate", "truncate and holes of a file mapped shared and private"),
		CASE("mremap", "mremap of whole page tables, with and without DONTUNMAP"),
		CASE("fork", "fork of a process with threads; what a child writes stays its own"),
		CASE("userfaultfd", "userfaultfd: pages come back by COPY and MOVE"),
		CASE("mprotect", "mprotect to none, read-only and back"),
		CASE("mlock", "mlock, MLOCK_ONFAULT and munlock"),
		{ "under.all", "all of these at once, in one address space", run_all, NULL, MIXED_S, 0 },
	};

	return kt_main(argc, argv, "mm-stress", cases, KT_ARRAY(cases));
}
