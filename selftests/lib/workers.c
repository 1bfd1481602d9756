// SPDX-License-Identifier: GPL-2.0-only
/* The workers of a benchmark: threads and processes that work at once, and are counted while they do. */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* For one that was told to stop; what it is in the midst of may be a long file. */
#define STOP_S 10

struct bench_process {
	pid_t pid;
	bool reaped;		/* its pid may be another's by now */
	sem_t go;
	_Atomic bool idle;
	_Atomic uint64_t count;
};

/* Processes see it too. */
static struct {
	_Atomic bool stopped, counting;
} *state;

static struct bench_process *processes[BENCH_MAX_WORKERS];
static unsigned int nr_processes;
static pthread_barrier_t ready;
static int own_nice;

void bench_prepare_workers(void)
{
	state = kt_shared(sizeof(*state));
	own_nice = getpriority(PRIO_PROCESS, 0);
}

bool bench_stopped(void)
{
	return atomic_load_explicit(&state->stopped, memory_order_relaxed);
}

bool bench_counting(void)
{
	return atomic_load_explicit(&state->counting, memory_order_relaxed);
}

void bench_spin_ns(uint64_t ns)
{
	uint64_t end = kt_now_ns() + ns;

	while (kt_now_ns() < end && !bench_stopped())
		;
}

/* --- processes --- */

static _Noreturn void be_the_process(struct bench_worker *self)
{
	prctl(PR_SET_NAME, self->role);
	/* a failure of these shows when they are read back */
	(void)kt_pin(self->slot);
	if (self->niced)
		(void)setpriority(PRIO_PROCESS, 0, self->nice);
	if (self->prepare)
		self->prepare(self);
	for (;;) {
		atomic_store(&self->process->idle, true);
		while (sem_wait(&self->process->go))
			;
		self->run(self);
	}
}

/* Its status is kept for who asks: it is there once only. */
static bool lives(struct bench_process *process, int *status)
{
	if (!process->reaped && waitpid(process->pid, status, WNOHANG))
		process->reaped = true;
	return !process->reaped;
}

bool bench_alive(const struct bench_worker *worker)
{
	return lives(worker->process, NULL);
}

pid_t bench_pid(const struct bench_worker *worker)
{
	return worker->process->pid;
}

void bench_start_process(struct bench_worker *worker)
{
	struct bench_process *process = kt_shared(sizeof(*process));
	int status = 0;
	pid_t pid;

	if (nr_processes == BENCH_MAX_WORKERS)
		bench_die("more than %d processes", BENCH_MAX_WORKERS);
	worker->process = processes[nr_processes++] = process;
	worker->done = &process->count;
	sem_init(&process->go, 1, 0);
	pid = kt_fork();
	if (!pid)
		be_the_process(worker);
	process->pid = pid;
	while (!atomic_load(&process->idle)) {
		/* what it could not do it has said itself */
		if (!lives(process, &status) && WIFEXITED(status) && WEXITSTATUS(status))
			exit(WEXITSTATUS(status));
		if (process->reaped)
			bench_die("the %s ended at once, with status %#x", worker->role, (unsigned int)status);
		kt_sleep_ns(1000000);
	}
}

void bench_end_processes(void)
{
	for (; nr_processes; nr_processes--) {
		struct bench_process *process = processes[nr_processes - 1];

		if (!process->reaped) {
			kill(process->pid, SIGKILL);
			waitpid(process->pid, NULL, 0);
		}
	}
}

static void start(struct bench_process *process)
{
	if (lives(process, NULL)) {
		atomic_store(&process->idle, false);
		sem_post(&process->go);
	}
}

/* One that does not stop is killed. */
static void await_idle(struct bench_process *process)
{
	uint64_t limit = kt_now_ns() + STOP_S * KT_NSEC;

	while (lives(process, NULL) && !atomic_load(&process->idle)) {
		if (kt_now_ns() > limit)
			kill(process->pid, SIGKILL);
		kt_sleep_ns(1000000);
	}
}

/* --- rounds --- */

/* Whatever a worker turned out to be otherwise once, that is what is told. */
static void read_back(struct bench_worker *worker, pid_t task)
{
	const int cpu = kt_only_cpu(task);
	int nice;

	if (worker->placed)
		worker->cpu_found = cpu;
	worker->placed = worker->placed && cpu == kt_cpu(worker->slot);
	errno = 0;
	nice = getpriority(PRIO_PROCESS, (id_t)task);
	if (worker->ranked)
		worker->nice_found = nice;
	worker->ranked = worker->ranked && !errno && nice == (worker->niced ? worker->nice : own_nice);
}

static void *thread_main(void *arg)
{
	struct bench_worker *self = arg;

	/* a failure shows when it is read back */
	(void)kt_pin(self->slot);
	pthread_barrier_wait(&ready);
	self->run(self);
	read_back(self, 0);
	return NULL;
}

static void start_all(struct bench_phase *phase, pthread_t *threads)
{
	unsigned int nr_threads = 0;

	if (phase->nr > BENCH_MAX_WORKERS)
		bench_die("%u workers, room for %d", phase->nr, BENCH_MAX_WORKERS);
	for (unsigned int i = 0; i < phase->nr; i++)
		nr_threads += !phase->workers[i].process;
	atomic_store(&state->stopped, false);
	pthread_barrier_init(&ready, NULL, nr_threads + 1);
	for (unsigned int i = 0; i < phase->nr; i++) {
		struct bench_worker *worker = &phase->workers[i];
		int error = 0;

		if (!phase->rounds)
			worker->alive = worker->placed = worker->ranked = true;
		if (worker->process) {
			start(worker->process);
		} else {
			worker->done = &worker->count;
			error = pthread_create(&threads[i], NULL, thread_main, worker);
		}
		if (error)
			bench_die("a thread: %s", strerror(error));
	}
	pthread_barrier_wait(&ready);
}

static void stop_all(struct bench_phase *phase, const pthread_t *threads)
{
	/* processes may be looked at while they work; threads do that themselves */
	for (unsigned int i = 0; i < phase->nr; i++) {
		struct bench_worker *worker = &phase->workers[i];

		if (worker->process) {
			worker->alive = lives(worker->process, NULL) && worker->alive;
			read_back(worker, worker->process->pid);
		}
	}
	atomic_store(&state->stopped, true);
	for (unsigned int i = 0; i < phase->nr; i++) {
		if (phase->workers[i].process)
			await_idle(phase->workers[i].process);
		else
			pthread_join(threads[i], NULL);
	}
	pthread_barrier_destroy(&ready);
}

static void count_all(const struct bench_phase *phase, uint64_t *counts)
{
	for (unsigned int i = 0; i < phase->nr; i++)
		counts[i] = bench_counted(&phase->workers[i]);
}

void bench_run(struct bench_phase *phase, double seconds)
{
	const uint64_t half = (uint64_t)(seconds / 2 * (double)KT_NSEC);
	uint64_t first[BENCH_MAX_WORKERS], middle[BENCH_MAX_WORKERS], last[BENCH_MAX_WORKERS], since, until;
	pthread_t threads[BENCH_MAX_WORKERS];

	start_all(phase, threads);
	kt_sleep_ns((uint64_t)(seconds / 10 * (double)KT_NSEC));
	since = kt_now_ns();
	count_all(phase, first);
	atomic_store(&state->counting, true);
	kt_sleep_ns(half);
	count_all(phase, middle);
	kt_sleep_ns(half);
	atomic_store(&state->counting, false);
	count_all(phase, last);
	until = kt_now_ns();
	stop_all(phase, threads);
	for (unsigned int i = 0; i < phase->nr; i++) {
		struct bench_worker *worker = &phase->workers[i];
		uint64_t late = last[i] - middle[i];

		worker->in_window += last[i] - first[i];
		if (!phase->rounds || late < worker->least_half)
			worker->least_half = late;
	}
	phase->seconds += (double)(until - since) / (double)KT_NSEC;
	phase->rounds++;
}

static void append(char *text, size_t size, const char *format, ...)
{
	size_t used = strlen(text);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text + used, size - used, format, arguments);
	va_end(arguments);
}

void bench_prove_phase(const struct bench_phase *phase)
{
	char worked[300] = "", placed[300] = "", ranked[300] = "", name[96];
	const bool ran = phase->nr && phase->rounds;
	bool all_worked = ran, all_placed = ran, all_ranked = ran;

	for (unsigned int i = 0; i < phase->nr; i++) {
		const struct bench_worker *worker = &phase->workers[i];
		const char *comma = i ? ", " : "";

		all_worked = all_worked && worker->alive && worker->in_window && worker->least_half;
		all_placed = all_placed && worker->placed;
		all_ranked = all_ranked && worker->ranked;
		append(worked, sizeof(worked), "%s%s %" PRIu64 " (%" PRIu64 ")%s", comma, worker->role,
		       worker->in_window, worker->least_half, worker->alive ? "" : " dead");
		append(placed, sizeof(placed), "%s%s on %d", comma, worker->role, worker->cpu_found);
		if (!worker->placed)
			append(placed, sizeof(placed), ", %d was asked for", kt_cpu(worker->slot));
		append(ranked, sizeof(ranked), "%s%s %d", comma, worker->role, worker->nice_found);
		if (!worker->ranked)
			append(ranked, sizeof(ranked), ", %d was asked for", worker->niced ? worker->nice : own_nice);
	}
	snprintf(name, sizeof(name), "%s: all worked until the end", phase->name);
	bench_proof(name, all_worked, "done in %u rounds (the least in a late half): %s", phase->rounds, worked);
	snprintf(name, sizeof(name), "%s: all on their CPUs", phase->name);
	bench_proof(name, all_placed, "%s", placed);
	snprintf(name, sizeof(name), "%s: all of their niceness", phase->name);
	bench_proof(name, all_ranked, "%s", ranked);
}

double bench_rate(const struct bench_phase *phase, const char *role)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < phase->nr; i++)
		if (!strcmp(phase->workers[i].role, role))
			sum += phase->workers[i].in_window;
	return phase->seconds > 0 ? (double)sum / phase->seconds : 0;
}

/* --- steps --- */

static void make_step(struct bench_step *step, unsigned int threads, const struct bench_worker *thread,
		      size_t arg_size, const struct bench_worker *writer)
{
	step->threads = threads;
	step->writer = writer;
	snprintf(step->name, sizeof(step->name), "%ut%s", threads, writer ? "_writer" : "");
	step->workers = aligned_alloc(_Alignof(struct bench_worker),
				      (threads + 1) * sizeof(struct bench_worker));
	if (!step->workers)
		bench_die("no memory");
	for (unsigned int i = 0; i < threads; i++) {
		step->workers[i] = *thread;
		step->workers[i].slot = (int)i;
		step->workers[i].arg = (char *)thread->arg + i * arg_size;
	}
	if (writer) {
		step->workers[threads] = *writer;
		step->workers[threads].slot = kt_cpus() - 1;
	}
	step->phase = (struct bench_phase){ .name = step->name, .workers = step->workers,
					    .nr = threads + !!writer };
}

unsigned int bench_make_steps(struct bench_step *steps, unsigned int most, const struct bench_worker *thread,
			      size_t arg_size, const struct bench_worker *writer)
{
	unsigned int nr = 0;

	if (!most)
		most = (unsigned int)kt_cpus();
	if (most >= BENCH_MAX_WORKERS)
		most = BENCH_MAX_WORKERS - 1;
	for (unsigned int threads = 1; nr + 1 < BENCH_MAX_STEPS; threads *= 2) {
		if (threads > most)
			threads = most;
		make_step(&steps[nr++], threads, thread, arg_size, NULL);
		if (threads < (unsigned int)kt_cpus())
			make_step(&steps[nr++], threads, thread, arg_size, writer);
		if (threads == most)
			break;
	}
	return nr;
}

unsigned int bench_most_threads(const struct bench_step *steps, unsigned int nr)
{
	unsigned int most = 0;

	for (unsigned int i = 0; i < nr; i++)
		if (steps[i].threads > most)
			most = steps[i].threads;
	return most;
}

static double rate_of(const struct bench_step *steps, unsigned int nr, unsigned int threads)
{
	for (unsigned int i = 0; i < nr; i++)
		if (steps[i].threads == threads && !steps[i].writer)
			return bench_rate(&steps[i].phase, steps[i].workers[0].role);
	return 0;
}

void bench_report_step(const struct bench_step *steps, unsigned int nr, const struct bench_step *step,
		       const char *what)
{
	double rate = bench_rate(&step->phase, step->workers[0].role);
	char name[64];

	bench_prove_phase(&step->phase);
	snprintf(name, sizeof(name), "%s_per_s_%s", what, step->name);
	bench_metric(name, rate, "1/s", "higher", true);
	if (step->writer) {
		snprintf(name, sizeof(name), "writes_per_s_%s", step->name);
		bench_metric(name, bench_rate(&step->phase, step->workers[step->threads].role), "1/s", "higher",
			     false);
		bench_times("write", "us", step->name, &step->wrote, BENCH_MEAN, BENCH_ENOUGH);
		snprintf(name, sizeof(name), "kept_%s", step->name);
		bench_metric(name, rate / rate_of(steps, nr, step->threads), "ratio", "higher", true);
	} else if (step->threads > 1) {
		snprintf(name, sizeof(name), "scaling_%s", step->name);
		bench_metric(name, rate / rate_of(steps, nr, 1), "ratio", "higher", true);
	}
}
