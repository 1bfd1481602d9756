/* SPDX-License-Identifier: GPL-2.0-only */
/* What map-latency.c and seed-table.c share. */
#ifndef MAP_LATENCY_H
#define MAP_LATENCY_H

#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hist.h"

#define MAX_CHILDREN 64
#define MAX_CPUS 1024
#define NSEC 1000000000ULL

enum { EXIT_SYSCALL = 1, EXIT_USAGE = 2, EXIT_CANNOT_RUN = 4 };
enum role { SCANNER, BUSY };
enum phase_kind { ALONE, SCANNED, PHASE_KINDS };

struct options {
	unsigned long size_mib;
	double seconds;
	unsigned int scanners;
	double busy_ms;
	unsigned int mapper_cpu;
	unsigned int scanner_cpus[MAX_CHILDREN];
	unsigned int nr_scanner_cpus;
	int nice;
	char file[32];
	unsigned long pause_us;
	unsigned long fragments;
	uint64_t seed;
	enum phase_kind phases[PHASE_KINDS];
	unsigned int nr_phases;
	bool seed_table;
	unsigned int samples;
};

/* What a child tells its parent, in shared memory; reset by the parent while the child is idle. */
struct progress {
	_Atomic uint64_t scans, bytes, errors, worst_ns, last_end_ns;
	_Atomic int last_errno;
	_Atomic bool idle;
};

struct shared {
	_Atomic bool stop;
	struct progress of[2 * MAX_CHILDREN];
};

struct child {
	pid_t pid;
	enum role role;
	unsigned int cpu;
	int go; /* write end of its pipe; a byte starts it, EOF ends it */
	bool reaped;
	int status;
};

/* A child as it was at the end of a phase. */
struct readback {
	bool alive;
	bool have_nice, have_cpus;
	int nice;
	cpu_set_t *cpus;
	size_t cpus_size;
	uint64_t scans, bytes, errors, worst_ns, last_end_ns;
	int last_errno;
};

struct phase {
	enum phase_kind kind;
	uint64_t start_ns, end_ns;
	uint64_t maps, unmaps, errors;
	struct hist took; /* by the calls that succeeded */
	long vmas_before, vmas_after;
	struct readback mapper, child[2 * MAX_CHILDREN];
};

/* --- map-latency.c --- */
extern struct options opt;
extern struct shared *shared;
extern struct child children[2 * MAX_CHILDREN];
extern unsigned int nr_children;
extern int mapper_nice;

_Noreturn void die(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint64_t now_ns(void);
void sleep_ns(uint64_t ns);
int pin_self(unsigned int cpu);
void read_back(pid_t pid, struct readback *back);
void make_shared(void);
void start_child(enum role role, unsigned int cpu);
void start_all_children(void);
void start_children(enum phase_kind kind);
void wait_for_idle(void);
void read_back_children(struct phase *phase);
void end_children(void);
void make_whole_region(void);
void seed_random(uint64_t seed); /* not 0 */
void map_and_unmap(struct phase *phase);

/* --- seed-table.c --- */
/* Run the test of the patch series and print its table; the exit status. */
int seed_table(uint64_t clock_step_ns);

#endif
