// SPDX-License-Identifier: GPL-2.0-only
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_S 10
#define STORM_THREADS 2
#define OTHERS 24		/* mappings of other kinds beside the region */

double patience_s(void)
{
	return PATIENCE_S * kt_factor();
}

/* --- inside the target --- */

static struct target *me;

static char *page_at(size_t index)
{
	return (char *)me->region + index * kt_page();
}

/* Neighbours differ in what they permit, so that each page is a VMA of its own. */
static int permission(size_t index)
{
	return index % 2 ? PROT_READ : PROT_READ | PROT_WRITE;
}

static void build_region(size_t vmas)
{
	int error;

	me->vmas = vmas;
	me->region = (uintptr_t)kt_map(NULL, vmas * kt_page(), PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	for (size_t i = 0; i < vmas; i++)
		if (i % 16 < 2)
			*page_at(i) = 1;
	error = kt_split(page_at(0), vmas, permission(0), permission(1));
	if (error)
		kt_inconclusive("mprotect: %s", strerror(error));
}

/* What the kernel treats apart when it shows or locks a VMA: files, shared memory, names, locked pages. */
static void build_others(void)
{
	size_t page = kt_page();
	int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int shm = memfd_create("locking", MFD_CLOEXEC);

	if (exe < 0 || shm < 0 || ftruncate(shm, (off_t)(4 * page)))
		kt_inconclusive("no file to map: %s", strerror(errno));
	for (int i = 0; i < OTHERS; i++) {
		int prot = i % 2 ? PROT_READ : PROT_READ | PROT_WRITE;
		volatile char *at;

		switch (i % 6) {
		case 0:
			at = kt_map(NULL, page, prot, MAP_SHARED, shm);
			break;
		case 1:
			at = kt_map(NULL, page, prot, MAP_PRIVATE, exe);
			break;
		case 2:
			at = kt_map(NULL, page, prot, MAP_SHARED | MAP_ANONYMOUS, -1);
			break;
		case 3:
			at = kt_map(NULL, page, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);
			/* a kernel without CONFIG_ANON_VMA_NAME refuses, and that is no matter */
			kt_name((void *)at, page, "locking");
			break;
		case 4:
			at = kt_map(NULL, page, prot, MAP_PRIVATE, shm);
			break;
		default:
			at = kt_map(NULL, page, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);
			mlock((void *)at, page);
		}
		(void)*at;
	}
	close(exe);
	close(shm);
}

static void changed(int error, const char *call)
{
	if (error)
		kt_inconclusive("%s of the target: %s", call, strerror(errno));
	atomic_fetch_add(&me->shared->changes, 1);
}

/* It changes a flag of each VMA without merging any; the kernel write-locks what it changes. */
static void flag_all(int advice)
{
	int error = madvise((void *)me->region, me->vmas * kt_page(), advice);

	/* a page that another thread has just unmapped is told that way, all others are done */
	changed(error && errno != ENOMEM, "madvise");
}

static void map_page(char *at, int prot)
{
	void *got = mmap(at, kt_page(), prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	changed(got == MAP_FAILED, "mmap");
}

/* One change of the address space: after 8 of them it is again as it was. */
static void change(size_t index, unsigned int step)
{
	char *at = page_at(index);

	switch (step % 8) {
	case 0:
		flag_all(MADV_DONTDUMP);
		break;
	case 1:
		flag_all(MADV_DODUMP);
		break;
	case 2: /* merges with both neighbours */
		changed(mprotect(at, kt_page(), permission(index + 1)), "mprotect");
		break;
	case 3: /* splits again */
		changed(mprotect(at, kt_page(), permission(index)), "mprotect");
		break;
	case 4:
		changed(munmap(at, kt_page()), "munmap");
		break;
	case 5:
		map_page(at, permission(index));
		break;
	case 6: /* over a mapping that is there */
		map_page(at, PROT_NONE);
		break;
	default:
		changed(mprotect(at, kt_page(), permission(index)), "mprotect");
	}
}

static void change_paced(void)
{
	struct kt_rng rng = { kt_seed() };
	uint64_t seen = atomic_load(&me->shared->progress), step = atomic_load(&me->shared->step);
	size_t index = 0;

	/* beside the reader, not in turn with it */
	kt_pin(1);
	for (unsigned int i = 0; i % 16 || !atomic_load(&me->shared->stop); i++) {
		while (atomic_load(&me->shared->progress) - seen < step && !atomic_load(&me->shared->stop))
			sched_yield();
		seen = atomic_load(&me->shared->progress);
		if (i % 16 == 0)
			index = kt_below(&rng, me->vmas - 1);
		/* mostly what locks every VMA, for that is sure to be in the reader's way */
		change(index, i % 16 < 10 ? i % 2 : i - 8);
	}
}

static void *storm(void *arg)
{
	size_t number = (size_t)arg, share = me->vmas / STORM_THREADS;
	struct kt_rng rng = { kt_seed() + number };
	size_t index = 0;

	/* its own share of the pages: what one does the other need not undo */
	for (unsigned int i = (unsigned int)number * 2; i % 8 || !atomic_load(&me->shared->stop); i++) {
		if (i % 8 == 0 || !index)
			index = number * share + 1 + kt_below(&rng, share - 2);
		change(index, i);
	}
	return NULL;
}

static void change_wildly(void)
{
	pthread_t threads[STORM_THREADS];

	for (size_t i = 0; i < STORM_THREADS; i++)
		if (pthread_create(&threads[i], NULL, storm, (void *)i))
			kt_inconclusive("no thread: %s", strerror(errno));
	for (size_t i = 0; i < STORM_THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void obey(enum target_command command)
{
	switch (command) {
	case TARGET_LOCK:
		if (munmap(kt_map(NULL, kt_page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1), kt_page()))
			kt_inconclusive("munmap: %s", strerror(errno));
		break;
	case TARGET_SWEEP:
		flag_all(MADV_DONTDUMP);
		flag_all(MADV_DODUMP);
		break;
	case TARGET_PACED:
		change_paced();
		break;
	case TARGET_STORM:
		change_wildly();
	}
}

static _Noreturn void be_the_target(int commands, int answers)
{
	char command;

	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	build_region(me->vmas);
	build_others();
	if (write(answers, &me->region, sizeof(me->region)) != sizeof(me->region))
		_exit(1);
	while (read(commands, &command, 1) == 1) {
		obey((enum target_command)command);
		if (write(answers, &command, 1) != 1)
			break;
	}
	_exit(0);
}

/* --- outside of it --- */

void target_start(struct target *target, size_t vmas)
{
	target->vmas = vmas;
	target->shared = kt_shared(sizeof(*target->shared));
	me = target;
	target->pid = kt_fork_piped(&target->to, &target->from);
	if (!target->pid)
		be_the_target(target->from, target->to);
	if (read(target->from, &target->region, sizeof(target->region)) != sizeof(target->region))
		kt_inconclusive("the target did not start");
}

void target_tell(struct target *target, enum target_command command)
{
	char byte = (char)command;

	atomic_store(&target->shared->stop, false);
	if (write(target->to, &byte, 1) != 1)
		kt_inconclusive("the target is gone");
}

void target_describe(int pid)
{
	char path[64], where[128] = "", stack[1024] = "", state = kt_task_state(pid, pid);

	snprintf(path, sizeof(path), "/proc/%d/wchan", pid);
	kt_read_file(path, where, sizeof(where));
	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	kt_read_file(path, stack, sizeof(stack));
	for (char *p = stack; *p; p++)
		if (*p == '\n')
			*p = ' ';
	kt_note("process %d is in state %c, waits in %s; %s", pid, state ? state : '-', where, stack);
}

bool target_done(struct target *target, const char *while_what)
{
	struct pollfd answer = { .fd = target->from, .events = POLLIN };
	char byte;

	if (poll(&answer, 1, (int)(patience_s() * 1000)) != 1) {
		kt_fail("the address space could not be changed for %.0f s %s", patience_s(), while_what);
		target_describe(target->pid);
		return false;
	}
	if (read(target->from, &byte, 1) != 1)
		kt_inconclusive("the target is gone");
	return true;
}

bool target_stop(struct target *target, const char *while_what)
{
	atomic_store(&target->shared->stop, true);
	return target_done(target, while_what);
}

bool target_changes(struct target *target, const char *while_what)
{
	uint64_t before = atomic_load(&target->shared->changes);
	uint64_t until = kt_now_ns() + (uint64_t)(patience_s() * (double)KT_NSEC);

	while (atomic_load(&target->shared->changes) < before + 2) {
		if (kt_now_ns() >= until) {
			kt_fail("the address space was not changed for %.0f s %s", patience_s(), while_what);
			target_describe(target->pid);
			return false;
		}
		kt_sleep_ns(200000);
	}
	return true;
}
