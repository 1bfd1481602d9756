/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the test programs of orchestrate share: cases in KTAP, proofs of work, random numbers, time,
 * CPUs, and what can be asked of the running kernel.
 *
 * A program is a table of cases and one call of kt_main(). Each case runs in a child of its own, in a
 * process group of its own, with a deadline: what it kills, leaks or leaves running is its own, and
 * what cannot be killed afterwards makes it fail. The functions that judge may be called from every
 * thread and every child of a case.
 */
#ifndef KT_H
#define KT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define KT_NSEC 1000000000ULL
#define KT_ARRAY(a) (sizeof(a) / sizeof((a)[0]))

struct kt_case {
	const char *name;	/* "group.case"; cases of one group stand together in the table */
	const char *proves;	/* in one line */
	void (*run)(const void *arg);
	const void *arg;
	double seconds;		/* how long it goes on; 0: until it is done. --duration replaces it */
	double limit_s;		/* how long it may take beyond that, on a fast machine; 0: 20 */
};

/* Options, cases, KTAP. Returns the exit status: 0 nothing failed, 1 something did, 2 usage, 4 all skipped. */
int kt_main(int argc, char **argv, const char *program, const struct kt_case *cases, size_t nr);

/* The kernel did wrong; the case goes on, so that it can be counted. The first few are printed. */
void kt_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* As kt_fail, with text that was read from the kernel, shown line by line. */
void kt_fail_text(const char *text, size_t length, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The kernel lacks what the case is about. Ends the process that calls it. */
_Noreturn void kt_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
/*
 * Nothing was shown either way: a call that prepares failed, or no work was done. Ends the process; outside a
 * case, as in a benchmark, with the text on standard error and status 1.
 */
_Noreturn void kt_inconclusive(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A line for the log; with kt_verbose() only, if it is a detail. */
void kt_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void kt_detail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A counter of work; below the least it makes the case INCONCLUSIVE instead of passed. */
void kt_work(const char *name, uint64_t done, uint64_t least);
/* A number that the log shows beside the counters and nobody judges. */
void kt_figure(const char *name, double value);
uint64_t kt_failures(void);

double kt_seconds(void);	/* of this case */
bool kt_over(void);		/* whether they are over; cheap enough for an inner loop */
uint64_t kt_seed(void);		/* differs from case to case, and is the same again with --seed */
bool kt_verbose(void);
double kt_factor(void);		/* how much slower than a fast machine the guest is, at least 1 */

struct kt_rng {
	uint64_t state;
};
uint64_t kt_random(struct kt_rng *rng);				/* all 64 bits */
uint64_t kt_below(struct kt_rng *rng, uint64_t bound);		/* 0 .. bound - 1 */

uint64_t kt_now_ns(void);	/* CLOCK_MONOTONIC */
void kt_sleep_ns(uint64_t ns);
int kt_cpus(void);		/* that this program may run on */
int kt_cpu(int number);		/* the CPU number of the number-th of them, counted round */
int kt_pin(int number);		/* this thread, to the number-th of them; 0, or an errno */
/* The one CPU that a task (0: this thread) may run on, as the kernel tells; -1 if there are several. */
int kt_only_cpu(pid_t task);

size_t kt_page(void);
bool kt_kernel_since(int major, int minor);
/* Whether this kernel has per-VMA locks: 1, 0, or -1 where its symbols cannot be read. */
int kt_per_vma_lock(void);
/* A counter of /proc/vmstat, -1 if the kernel has none of that name. */
long long kt_vmstat(const char *name);
/* A small file whole, with a NUL behind it; the length, or -1 and errno. */
ssize_t kt_read_file(const char *path, char *buffer, size_t size);
int kt_write_file(const char *path, const char *text);	/* 0, or an errno */
unsigned long kt_max_map_count(void);	/* how many VMAs a process may have */
/* The state letter of a task of /proc/PID/task/TID/stat, 0 if it is gone. */
char kt_task_state(int pid, int tid);
/* mmap() that does not fail: where it does, nothing was shown. */
void *kt_map(void *at, size_t length, int prot, int flags, int fd);
void *kt_shared(size_t size);	/* memory that is common to this process and all its children to come */
/* Name anonymous memory, or take its name away; 0, or an errno: not every kernel has CONFIG_ANON_VMA_NAME. */
int kt_name(void *at, size_t length, const char *name);
/* Make each page a VMA of its own, for neighbours of different protection do not merge; 0, or an errno. */
int kt_split(char *region, size_t pages, int even, int odd);

/*
 * fork() that does not fail: where it does, nothing was shown. The child is killed when the thread that made it
 * ends. With pipes, each side gets the ends that lead to and from the other one.
 */
pid_t kt_fork(void);
pid_t kt_fork_piped(int *to, int *from);

#endif
