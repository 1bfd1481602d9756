/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the benchmarks of orchestrate share: options, workers that are pinned and counted, and one JSON
 * document of parameters, metrics, histograms and proofs. README.md of fault-scaling shows one.
 *
 * A benchmark judges nothing. It says what it measured, and by proofs whether it measured at all: that
 * every worker did run, where it should, until the end. One false proof makes the boot inconclusive.
 * Exit status: 0 the document is complete, 1 a call failed, 2 usage, 4 cannot run here.
 */
#ifndef BENCH_H
#define BENCH_H

#include "kt.h"

#include "hist.h"
#include <sys/types.h>

#define BENCH_MAX_WORKERS 256
/* Nobody's counter may share a cache line with another's. */
#define BENCH_LINE __attribute__((aligned(128)))

struct bench_option {
	const char *name, *help;
	double value;		/* the default; then what was asked for */
	double least, most;
	bool whole;			/* a fraction is wrong usage */
	const char *const *words;	/* if there: one of these up to NULL, and the value is its number */
	bool flag;			/* takes no value, which is 1 if it was given */
	bool given;
};

/* Options, CPUs, the clock's step. The options are parameters of the document too. */
void bench_start(int argc, char **argv, const char *name, const char *about, struct bench_option *options,
		 size_t nr);
_Noreturn void bench_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));	/* exit 2 */
_Noreturn void bench_cannot(const char *format, ...) __attribute__((format(printf, 1, 2)));	/* exit 4 */
_Noreturn void bench_die(const char *format, ...) __attribute__((format(printf, 1, 2)));	/* exit 1 */

void bench_parameter(const char *name, double value);
/*
 * unit: ns, us, ms, 1/s, ratio or count; but for the last two it is part of the name as well. What is not a
 * finite number becomes a false proof.
 */
void bench_metric(const char *name, double value, const char *unit, const char *better, bool compare);
/* Of nanoseconds; it is printed at the end and must live until then. */
void bench_histogram(const char *name, const struct hist *hist);
/*
 * A histogram and what it comes to in ns or us: WHAT_mean_us_WHERE, likewise p50, p90, p99, p999 and max, and
 * WHAT_ns_WHERE; what and where may be empty. With a proof that so many were timed at least.
 */
#define BENCH_MEAN 1	/* to be compared */
#define BENCH_P99 2
#define BENCH_ENOUGH 100	/* of fewer a 99th percentile says nothing */
void bench_times(const char *what, const char *unit, const char *where, const struct hist *hist,
		 unsigned int compare, uint64_t least);
double bench_median(double *values, size_t nr);	/* which it sorts; 0 of none */
void bench_proof(const char *name, bool ok, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* That the clock's steps are a fifth at most of what was timed. */
void bench_prove_clock(const char *what, double ns);
/* The first proof that does not hold, in words; false if all do. */
bool bench_doubt(char *text, size_t size);
/* End the processes and print the document; the exit status. */
int bench_finish(void);

/*
 * A worker is a thread that is made for each run, or a process that waits for the next one in between. Copies of
 * a process's worker are the same process.
 */
struct bench_worker {
	const char *role;
	void (*run)(struct bench_worker *self);	/* works until bench_stopped() */
	void (*prepare)(struct bench_worker *self);	/* if there: what a process does before anything else */
	int slot;				/* of kt_cpu() */
	bool niced;				/* a process: of this niceness, else of the program's */
	int nice;
	void *arg;				/* kt_shared() if a process is to tell something there */
	struct bench_process *process;
	_Atomic uint64_t *done;			/* a process's counter, or the next one */
	_Atomic uint64_t count BENCH_LINE;
	/* told by bench_run(), added up over the rounds of a phase */
	uint64_t in_window, least_half;
	bool alive, placed, ranked;
	int cpu_found, nice_found;		/* -1: more than one CPU, or unknown */
};

struct bench_phase {
	const char *name;
	struct bench_worker *workers;
	unsigned int nr, rounds;
	double seconds;				/* of all rounds */
};

/*
 * Make a worker a process, and wait until it is prepared. Where it ends instead, so does the program, with its
 * exit status. It has what memory there is at that time: best before there is much.
 */
void bench_start_process(struct bench_worker *worker);
bool bench_alive(const struct bench_worker *worker);	/* a process */
pid_t bench_pid(const struct bench_worker *worker);
void bench_end_processes(void);

/* In all rounds, and beside them. */
static inline uint64_t bench_counted(const struct bench_worker *worker)
{
	return worker->done ? atomic_load_explicit(worker->done, memory_order_relaxed) : 0;
}

static inline void bench_done(struct bench_worker *self, uint64_t more)
{
	atomic_store_explicit(self->done, bench_counted(self) + more, memory_order_relaxed);
}

bool bench_stopped(void);
bool bench_counting(void);	/* the warm-up is over, and not yet the round */
/* A rest without sleeping: a sleep is rounded up, in some guests to a whole tick. */
void bench_spin_ns(uint64_t ns);
/* One round: all workers at once, counted for so many seconds after a tenth of that to warm up. */
void bench_run(struct bench_phase *phase, double seconds);
/* Proofs that every worker of a phase worked until the end of every round, on its CPU and of its niceness. */
void bench_prove_phase(const struct bench_phase *phase);
double bench_rate(const struct bench_phase *phase, const char *role);	/* 1/s, of all of one role */

/*
 * For what is to scale: phases of 1, 2, 4 ... threads, each without a writer, and with one where there is a
 * CPU left for it alone: sharing a CPU's time would be measured instead of sharing a lock.
 */
#define BENCH_MAX_STEPS 20

struct bench_step {
	unsigned int threads;
	bool writer;
	char name[40];			/* "2t", "1t_writer" */
	struct bench_phase phase;
	struct bench_worker *workers;
	struct hist took;		/* for the caller */
	struct hist wrote;		/* by the writer, filled by the caller too */
};

/* Threads like the given one, with arg + number * arg_size as their arg; most: 0 for one on each CPU. */
unsigned int bench_make_steps(struct bench_step *steps, unsigned int most, const struct bench_worker *thread,
			      size_t arg_size, const struct bench_worker *writer);
/* The most threads that a step has. */
unsigned int bench_most_threads(const struct bench_step *steps, unsigned int nr);
/*
 * The proofs of a step and its metrics: WHAT_per_s_2t, scaling_2t (over one thread's rate), and
 * WHAT_per_s_1t_writer, kept_1t_writer (over the rate without writer), writes_per_s_1t_writer, and by
 * bench_times() write_mean_us_1t_writer and its kin. A writer should rest between its writes: of two that
 * never do, the one that is held up disturbs less, and the worse kernel looks better.
 */
void bench_report_step(const struct bench_step *steps, unsigned int nr, const struct bench_step *step,
		       const char *what);

void bench_prepare_workers(void);	/* for bench_start() */

#endif
