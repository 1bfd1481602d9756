// SPDX-License-Identifier: GPL-2.0-only
#include "race.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_MODIFIERS 4
#define MAX_READERS 4
#define BALLAST (4UL << 20)	/* more than all else that the target has */
#define THREAD_STACK 131072
#define REHEARSED_ROUNDS 2
#define LONGEST_SPAN_NS 1000000	/* that a pass takes; one that stood still says nothing of the others */

/* Between the readers and the target, whichever process that is. */
struct shared {
	_Atomic unsigned int ready, stop;
	_Atomic unsigned int rehearsed, accepted;	/* steps */
	/* one step a pass: which is under way, which had its step, how long one is */
	_Atomic uint64_t pass, stepped, span_ns;
	struct {
		_Atomic uint64_t begun, done;
		_Atomic int tid;
		char apart[40];	/* in a cache line of its own */
	} modifier[MAX_MODIFIERS];
};

struct modifier {
	struct row *row;
	unsigned int number;
	struct kt_rng rng;
	pthread_t thread;
};

struct reader {
	struct eye eye;
	struct check check;
	unsigned int number;
	uint64_t passes, overlapped;
	uint64_t behind_at[ROW_STEPS];	/* one step a pass: what was left out, by the step */
	pthread_t thread;
};

static const struct race *setup;
static struct shared *shared;
static struct row *row, *own_row;	/* as it is known to the readers; as the modifiers go through it */
static struct reader readers[MAX_READERS];
static struct modifier modifiers[MAX_MODIFIERS];
static pid_t target;

/* --- the target --- */

static unsigned int nr_modifiers(void)
{
	return setup->modifiers ? setup->modifiers : 1;
}

static unsigned int nr_readers(void)
{
	return setup->readers ? setup->readers : 1;
}

/* Now and then a rest, so that a reader meets quiet moments and all phases of a step. */
static void rest(struct kt_rng *rng)
{
	uint64_t until;

	if (kt_below(rng, 4))
		return;
	until = kt_now_ns() + kt_below(rng, 20000);
	while (kt_now_ns() < until)
		;
}

/* One step somewhere in the pass that is under way. */
static void step_in_pass(struct modifier *self)
{
	uint64_t pass = atomic_load(&shared->pass), until;

	if (pass == atomic_load(&shared->stepped))
		return;
	until = kt_now_ns() + kt_below(&self->rng, atomic_load(&shared->span_ns));
	while (kt_now_ns() < until)
		;
	atomic_fetch_add(&shared->modifier[0].begun, 1);
	cell_step(self->row, self->row->cell);
	atomic_fetch_add(&shared->modifier[0].done, 1);
	atomic_store(&shared->stepped, pass);
}

static void *modify(void *argument)
{
	struct modifier *self = argument;
	unsigned int mine = (self->row->nr - self->number + nr_modifiers() - 1) / nr_modifiers();

	atomic_store(&shared->modifier[self->number].tid, (int)syscall(SYS_gettid));
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
		unsigned int cell = self->number + nr_modifiers() * (unsigned int)kt_below(&self->rng, mine);

		if (setup->one_step) {
			step_in_pass(self);
			continue;
		}
		atomic_fetch_add(&shared->modifier[self->number].begun, 1);
		cell_step(self->row, &self->row->cell[cell]);
		atomic_fetch_add(&shared->modifier[self->number].done, 1);
		rest(&self->rng);
	}
	return NULL;
}

/* The first cell of a plan goes round quietly, and the readers say at each step whether it looks as told. */
static void rehearse(void)
{
	unsigned int steps = 0;

	for (unsigned int p = 0; p < own_row->nr_plans; p++) {
		struct cell *cell = own_row->cell;

		while (cell->plan->kind != own_row->plan[p].kind)
			cell++;
		for (unsigned int i = 0; i < REHEARSED_ROUNDS * (cell->plan->nr - 1); i++) {
			cell_step(own_row, cell);
			atomic_store(&shared->rehearsed, ++steps);
			while (atomic_load(&shared->accepted) != steps)
				kt_sleep_ns(20000);
		}
	}
}

static void start_thread(pthread_t *thread, void *(*function)(void *), void *argument)
{
	pthread_attr_t attributes;
	int error;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, THREAD_STACK);
	error = pthread_create(thread, &attributes, function, argument);
	if (error)
		kt_inconclusive("a thread: %s", strerror(error));
	pthread_attr_destroy(&attributes);
}

static void build_target(void)
{
	if (setup->view == ROLLUP)
		memset(kt_map(NULL, BALLAST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1), 1, BALLAST);
	row_build(own_row);
	for (unsigned int i = 0; i < nr_modifiers(); i++) {
		modifiers[i].row = own_row;
		modifiers[i].number = i;
		modifiers[i].rng.state = kt_seed() + 1000 + i;
	}
}

static _Noreturn void be_the_target(void)
{
	kt_pin(0);
	build_target();
	rehearse();
	for (unsigned int i = 1; i < nr_modifiers(); i++)
		start_thread(&modifiers[i].thread, modify, &modifiers[i]);
	modify(&modifiers[0]);
	_exit(0);
}

static void *be_the_first_modifier(void *unused)
{
	kt_pin(0);
	rehearse();
	return modify(unused);
}

/* --- the readers --- */

static void check_target(void)
{
	int status;

	if (!target || waitpid(target, &status, WNOHANG) != target)
		return;
	/* it has said itself why it ended */
	if (WIFEXITED(status))
		_exit(WEXITSTATUS(status) ? WEXITSTATUS(status) : 1);
	kt_inconclusive("the target was killed by signal %d", WTERMSIG(status));
}

static void attend_rehearsal(int pid)
{
	static struct eye eye;
	unsigned int steps = 0;

	eye_prepare(&eye, MAPS, WHOLE, 0);
	if (eye_open(&eye, pid, 0))
		kt_inconclusive("maps of the target: %s", strerror(errno));
	for (unsigned int p = 0; p < row->nr_plans; p++) {
		struct cell *cell = row->cell;

		while (cell->plan->kind != row->plan[p].kind)
			cell++;
		for (unsigned int i = 0; i < REHEARSED_ROUNDS * (cell->plan->nr - 1); i++) {
			unsigned int extent;
			char wanted[80];

			steps++;
			while (atomic_load(&shared->rehearsed) != steps) {
				check_target();
				kt_sleep_ns(20000);
			}
			cell->step = (cell->step + 1) % (cell->plan->nr - 1);
			if (eye_pass(&eye, &extent) || !check_layout(row, cell, &eye.text)) {
				print_layout(cell_layout(cell), wanted, sizeof(wanted));
				kt_note("%s: with nobody else about, the cell at %#lx is not laid out as %s:",
					cell->plan->kind->name, (unsigned long)cell->base, wanted);
				for (char *save = NULL, *line = strtok_r(eye.text.data, "\n", &save); line;
				     line = strtok_r(NULL, "\n", &save))
					kt_note("  | %s", line);
				kt_inconclusive("%s is laid out otherwise by this kernel",
						cell->plan->kind->name);
			}
			atomic_store(&shared->accepted, steps);
		}
	}
	eye_close(&eye);
}

static uint64_t progress(void)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < nr_modifiers(); i++)
		sum += atomic_load(&shared->modifier[i].begun) + atomic_load(&shared->modifier[i].done);
	return sum;
}

static void open_eye(struct reader *self)
{
	int pid = target ? target : getpid();
	unsigned int of = self->number % nr_modifiers();
	int error = eye_open(&self->eye, pid, setup->task ? atomic_load(&shared->modifier[of].tid) : 0);

	if (error == ENOENT)
		kt_skip("this kernel has no such file");
	if (error)
		kt_inconclusive("opening it: %s", strerror(error));
}

/* A pass with one step in it, or beside it: then it does not count as overlapped. */
static int pass_with_step(struct reader *self, unsigned int *extent)
{
	uint64_t since = kt_now_ns(), span;
	int error;

	atomic_fetch_add(&shared->pass, 1);
	error = eye_pass(&self->eye, extent);
	span = kt_now_ns() - since;
	if (span > LONGEST_SPAN_NS)
		span = LONGEST_SPAN_NS;
	self->overlapped += atomic_load(&shared->stepped) == atomic_load(&shared->pass);
	atomic_store(&shared->span_ns, (15 * atomic_load(&shared->span_ns) + span) / 16 + 1);
	while (atomic_load(&shared->stepped) != atomic_load(&shared->pass))
		check_target();
	return error;
}

static void check_one(struct reader *self, unsigned int extent)
{
	uint64_t behind = self->check.faults[BEHIND];

	check_pass(&self->check, &self->eye.text, extent);
	if (setup->one_step)
		self->behind_at[(self->passes - 1) % (row->plan->nr - 1)] +=
			self->check.faults[BEHIND] - behind;
}

static void *read_on(void *argument)
{
	struct reader *self = argument;

	/* not where the modifiers are: a reader that finds what a preempted one has half removed spins, and
	 * without preemptible RCU for ever (docs/findings/0002) */
	kt_pin(1 + (int)self->number % (kt_cpus() - 1));
	open_eye(self);
	while (go_on(self->passes >= LEAST_PASSES && self->overlapped >= LEAST_OVERLAPPED &&
		     progress() >= 2 * LEAST_MODIFICATIONS + nr_modifiers())) {
		uint64_t before = progress();
		unsigned int extent;
		int error;

		if (setup->one_step) {
			error = pass_with_step(self, &extent);
		} else {
			error = eye_pass(&self->eye, &extent);
			self->overlapped += progress() != before;
		}
		self->passes++;
		if (error == ENOTTY && setup->view == QUERY)
			kt_skip("this kernel has no PROCMAP_QUERY");
		if (error) {
			check_target();
			kt_fail("reading: %s", strerror(error));
			break;
		}
		check_one(self, extent);
		if (!kt_below(&self->eye.rng, 16)) {
			check_target();
			eye_close(&self->eye);
			open_eye(self);
		}
	}
	return NULL;
}

static void report_work(void)
{
	uint64_t passes = 0, overlapped = 0, done = 0, lines = 0, repeated = 0, behind = 0, holes = 0;

	for (unsigned int i = 0; i < nr_readers(); i++) {
		passes += readers[i].passes;
		overlapped += readers[i].overlapped;
		lines += readers[i].check.lines;
		repeated += readers[i].check.repeated;
		behind += readers[i].check.faults[BEHIND];
		holes += readers[i].check.holes;
	}
	for (unsigned int i = 0; i < nr_modifiers(); i++)
		done += atomic_load(&shared->modifier[i].done);
	kt_work("passes", passes, LEAST_PASSES);
	kt_work("modifications", done, LEAST_MODIFICATIONS);
	kt_work("overlapped", overlapped, LEAST_OVERLAPPED);
	kt_work("lines", lines, 1);
	kt_figure("repeated", (double)repeated);
	if (readers[0].check.policy.gaps)
		kt_figure(setup->judge_behind ? "left-out" : "left-out-not-judged", (double)behind);
	for (unsigned int i = 0; setup->one_step && i + 1 < row->plan->nr; i++) {
		char name[40] = "left-out-at-";

		print_layout(&row->plan->at[i + 1], name + strlen(name), sizeof(name) - strlen(name));
		for (char *p = name; *p; p++)
			if (*p == ' ')
				*p = ',';
		kt_figure(name, (double)readers[0].behind_at[i]);
	}
	if (holes)
		kt_figure("holes-not-judged", (double)holes);
	kt_figure("interruptions", (double)interruptions());
}

static void prepare(void)
{
	unsigned int nr_kinds = 0;

	while (nr_kinds < RACE_KINDS && setup->kinds[nr_kinds])
		nr_kinds++;
	shared = kt_shared(sizeof(*shared));
	/* apart from each other: plans point into their row, which each side goes through at its own pace */
	row = kt_map(NULL, sizeof(*row), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	own_row = kt_map(NULL, sizeof(*row), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	row_plan(row, setup->kinds, nr_kinds, setup->cells ? setup->cells : nr_kinds < 2 ? 2 : nr_kinds);
	*own_row = *row;
	for (unsigned int i = 0; i < nr_readers(); i++) {
		struct reader *reader = &readers[i];

		reader->number = i;
		eye_prepare(&reader->eye, setup->view, setup->how, kt_seed() + i);
		reader->check = (struct check){
			.row = row,
			.view = setup->view,
			.policy = policy_of(setup->view),
			.judge_behind = setup->judge_behind,
			.least_rss = BALLAST >> 10,
		};
	}
}

void race(const void *argument)
{
	setup = argument;
	if (kt_cpus() < 2)
		kt_skip("one CPU: nothing happens while a file is read");
	prepare();
	if (setup->self) {
		build_target();
		for (unsigned int i = 0; i < nr_modifiers(); i++)
			start_thread(&modifiers[i].thread, i ? modify : be_the_first_modifier, &modifiers[i]);
	} else {
		target = kt_fork();
		if (!target)
			be_the_target();
	}
	attend_rehearsal(target ? target : getpid());
	while (atomic_load(&shared->ready) != nr_modifiers()) {
		check_target();
		kt_sleep_ns(20000);
	}
	start_interrupter(1);
	for (unsigned int i = 1; i < nr_readers(); i++)
		start_thread(&readers[i].thread, read_on, &readers[i]);
	read_on(&readers[0]);
	for (unsigned int i = 1; i < nr_readers(); i++)
		pthread_join(readers[i].thread, NULL);
	atomic_store(&shared->stop, 1);
	report_work();
	if (target)
		kill(target, SIGKILL);
}
