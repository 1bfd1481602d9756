// SPDX-License-Identifier: GPL-2.0-only
/* The target as a whole: it forks, executes, ends, and so do its threads, while its files are read. */
#include "race.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the target says; in a file, so that it survives an execve(). */
struct told {
	_Atomic uint64_t generation;	/* odd while one is being replaced by the next */
	_Atomic int who;		/* a child, or a thread */
};

static struct told *told;
static int told_fd;
static struct row row;
static struct eye eye;
static struct check check;

static void prepare(enum view view, enum how how)
{
	static const struct kind *const kinds[] = { &boundary, &merge_left, &fixed_over };

	if (kt_cpus() < 2)
		kt_skip("one CPU: nothing happens while a file is read");
	told_fd = memfd_create("told", 0);
	if (told_fd < 0 || ftruncate(told_fd, (off_t)kt_page()))
		kt_inconclusive("a shared file: %s", strerror(errno));
	told = kt_map(NULL, kt_page(), PROT_READ | PROT_WRITE, MAP_SHARED, told_fd);
	row_plan(&row, kinds, KT_ARRAY(kinds), KT_ARRAY(kinds));
	eye_prepare(&eye, view, how, kt_seed());
	check = (struct check){ .row = &row, .view = view, .policy = policy_of(view) };
}

/* A child that builds the row and does its work until the case ends. */
static pid_t start_target(void (*work)(void))
{
	pid_t pid = kt_fork();

	if (pid)
		return pid;
	kt_pin(0);
	row_build(&row);
	atomic_store(&told->who, getpid());
	work();
	_exit(0);
}

static void wait_for_target(pid_t pid)
{
	int status;

	while (!atomic_load(&told->who)) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			kt_inconclusive("the target ended with status %#x", (unsigned int)status);
		kt_sleep_ns(20000);
	}
	kt_pin(1);
	start_interrupter(1);
}

static void must_open(pid_t pid)
{
	int error = eye_open(&eye, pid, 0);

	if (error)
		kt_inconclusive("opening it: %s", strerror(error));
}

/* --- fork --- */

static void fork_on(void)
{
	for (;;) {
		pid_t child = fork();

		if (!child)
			_exit(0);
		if (child < 0)
			kt_inconclusive("fork: %s", strerror(errno));
		waitpid(child, NULL, 0);
		atomic_fetch_add(&told->generation, 1);
	}
}

void fork_case(const void *arg)
{
	uint64_t passes = 0, overlapped = 0;
	struct maps_text first = { .data = NULL };
	pid_t pid;

	(void)arg;
	prepare(MAPS, PIECES);
	pid = start_target(fork_on);
	wait_for_target(pid);
	must_open(pid);
	while (go_on(passes >= LEAST_PASSES && overlapped >= LEAST_OVERLAPPED)) {
		uint64_t before = atomic_load(&told->generation);
		unsigned int extent;
		int error = eye_pass(&eye, &extent);

		if (error) {
			kt_fail("reading: %s", strerror(error));
			break;
		}
		check_pass(&check, &eye.text, extent);
		if (!first.data) {
			first.length = eye.text.length;
			first.data = kt_map(NULL, first.length, PROT_READ | PROT_WRITE,
					    MAP_PRIVATE | MAP_ANONYMOUS, -1);
			memcpy(first.data, eye.text.data, first.length);
		} else if (first.length != eye.text.length || memcmp(first.data, eye.text.data, first.length)) {
			kt_fail_text(eye.text.data, eye.text.length,
				     "a fork changed what its parent's file says");
		}
		passes++;
		overlapped += atomic_load(&told->generation) != before;
	}
	kt_work("passes", passes, LEAST_PASSES);
	kt_work("forks", atomic_load(&told->generation), LEAST_PASSES);
	kt_work("overlapped", overlapped, LEAST_OVERLAPPED);
	kt_figure("repeated", (double)check.repeated);
}

/* --- exit --- */

/* Children that hold the row until they are killed, after a while that a pass may take. */
static void die_on(void)
{
	struct kt_rng rng = { .state = kt_seed() };

	for (;;) {
		pid_t child = kt_fork();

		while (!child)
			pause();
		atomic_store(&told->who, child);
		atomic_fetch_add(&told->generation, 1);
		kt_sleep_ns(kt_below(&rng, 3000000));
		atomic_fetch_add(&told->generation, 1);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
}

/* Whether an error is what a target's end looks like. */
static bool gone(int error)
{
	return error == ENOENT || error == ESRCH || error == EACCES;
}

void exit_case(const void *arg)
{
	uint64_t passes = 0, cut = 0, whole = 0;
	pid_t pid;

	(void)arg;
	prepare(MAPS, PIECES);
	pid = start_target(die_on);
	wait_for_target(pid);
	while (go_on(cut >= LEAST_OVERLAPPED && whole >= LEAST_OVERLAPPED)) {
		uint64_t before = atomic_load(&told->generation);
		unsigned int extent;
		bool alive;
		int error;

		if (!(before & 1))
			continue;
		error = eye_open(&eye, atomic_load(&told->who), 0);
		if (!error)
			error = eye_pass(&eye, &extent);
		alive = atomic_load(&told->generation) == before;
		if (eye.fd < 0) {
			if (!gone(error) || alive)
				kt_fail("opening it while the target %s: %s", alive ? "lives" : "ends",
					strerror(error));
			continue;
		}
		if (error && (!gone(error) || alive))
			kt_fail("reading while the target %s: %s", alive ? "lives" : "ends", strerror(error));
		if (!alive)
			extent &= ~(unsigned int)TO_END;
		check_pass(&check, &eye.text, extent);
		eye_close(&eye);
		passes++;
		cut += !alive;
		whole += alive;
	}
	kt_work("passes", passes, LEAST_PASSES);
	kt_work("whole", whole, LEAST_OVERLAPPED);
	kt_work("ended-meanwhile", cut, LEAST_OVERLAPPED);
	kt_work("targets", atomic_load(&told->generation) / 2, LEAST_PASSES);
}

/* --- execve --- */

int exec_target(int fd)
{
	struct told *shared = mmap(NULL, kt_page(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char number[16];

	if (shared == MAP_FAILED)
		return 1;
	atomic_fetch_add(&shared->generation, 1);
	kt_sleep_ns(1000000);
	snprintf(number, sizeof(number), "%d", fd);
	execl("/proc/self/exe", "exec-target", "--be-the-target", number, NULL);
	return 1;
}

static void exec_on(void)
{
	exec_target(told_fd);
	kt_inconclusive("execve: %s", strerror(errno));
}

/*
 * Where the vDSO lies, by which an address space is known: once mapped it stays. (A stack does not, during
 * execve().) 0 if the text has none; two in one text are a failure.
 */
static uint64_t vdso_of(const struct maps_text *text)
{
	struct maps_line line;
	uint64_t start = 0;
	const char *why;
	size_t at = 0;
	int got;

	while ((got = maps_next(text, &at, &line, &why)) != 0) {
		if (got < 0 || !maps_named(&line, "[vdso]"))
			continue;
		if (start)
			kt_fail_text(text->data, text->length, "parts of two address spaces in one pass");
		start = line.start;
	}
	return start;
}

void exec_case(const void *arg)
{
	uint64_t passes = 0, overlapped = 0, compared = 0;
	pid_t pid;

	(void)arg;
	prepare(MAPS, PIECES);
	pid = start_target(exec_on);
	wait_for_target(pid);
	/* what is executed has no row */
	check.row = NULL;
	while (go_on(compared && overlapped >= LEAST_OVERLAPPED &&
		     atomic_load(&told->generation) >= LEAST_PASSES)) {
		uint64_t before = atomic_load(&told->generation), first;
		unsigned int extent;
		int error = eye_open(&eye, pid, 0);

		if (error && !gone(error))
			kt_fail("opening it: %s", strerror(error));
		if (error)
			continue;
		error = eye_pass(&eye, &extent);
		if (error && !gone(error))
			kt_fail("reading: %s", strerror(error));
		check_pass(&check, &eye.text, extent);
		first = vdso_of(&eye.text);
		/* the file belongs to the address space that it was opened for, whatever the task has by now */
		error = eye_pass(&eye, &extent);
		if (error && !gone(error))
			kt_fail("reading again: %s", strerror(error));
		check_pass(&check, &eye.text, extent);
		if (first && vdso_of(&eye.text)) {
			compared++;
			if (vdso_of(&eye.text) != first)
				kt_fail_text(eye.text.data, eye.text.length,
					     "an open file shows another address space");
		}
		eye_close(&eye);
		passes++;
		overlapped += atomic_load(&told->generation) != before;
	}
	kt_work("passes", passes, LEAST_PASSES);
	kt_work("read-twice", compared, 1);
	kt_work("execs", atomic_load(&told->generation), LEAST_PASSES);
	kt_work("overlapped", overlapped, LEAST_OVERLAPPED);
}

/* --- threads --- */

static void *live_shortly(void *unused)
{
	struct kt_rng rng = { .state = kt_now_ns() };

	atomic_store(&told->who, (int)syscall(SYS_gettid));
	kt_sleep_ns(kt_below(&rng, 1000000));
	return unused;
}

static void start_threads_on(void)
{
	for (;;) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, live_shortly, NULL))
			kt_inconclusive("a thread cannot be made");
		pthread_join(thread, NULL);
		atomic_fetch_add(&told->generation, 1);
	}
}

void threads_case(const void *arg)
{
	uint64_t passes = 0, ended = 0, whole = 0;
	pid_t pid;

	(void)arg;
	prepare(MAPS, PIECES);
	pid = start_target(start_threads_on);
	wait_for_target(pid);
	while (go_on(whole >= LEAST_OVERLAPPED && atomic_load(&told->generation) >= LEAST_PASSES)) {
		unsigned int extent;
		int error = eye_open(&eye, pid, atomic_load(&told->who));

		if (error && !gone(error))
			kt_fail("opening it: %s", strerror(error));
		if (error)
			continue;
		error = eye_pass(&eye, &extent);
		if (error && !gone(error))
			kt_fail("reading: %s", strerror(error));
		/*
		 * The address space lives on: what was read without an error, was read to its end. But a
		 * thread that had left it before the file was opened has an empty one.
		 */
		if (error || !eye.text.length)
			extent &= ~(unsigned int)TO_END;
		check_pass(&check, &eye.text, extent);
		eye_close(&eye);
		passes++;
		ended += error || !eye.text.length;
		whole += !error && eye.text.length;
	}
	kt_work("passes", passes, LEAST_PASSES);
	kt_work("whole", whole, LEAST_OVERLAPPED);
	kt_work("threads", atomic_load(&told->generation), LEAST_PASSES);
	kt_work("ended-meanwhile", ended, 0);
}
