/* SPDX-License-Identifier: GPL-2.0-only */
/* What map-latency.c and seed-table.c share: the one who maps, and those who read beside it. */
#ifndef MAP_LATENCY_H
#define MAP_LATENCY_H

#include "bench.h"

#define MAX_SCANNERS 64

enum {
	SIZE_MIB, SECONDS, SCANNERS, FILE_NAME, NICE, BUSY_MS, PAUSE_US, FRAGMENTS, SEED, SEED_TABLE, SAMPLES,
	NR_OPTIONS
};

extern struct bench_option options[NR_OPTIONS];

/* What the mapper did; in shared memory where a child is to tell it. */
struct mapping {
	uint64_t errors;
	struct hist took;	/* by the calls that succeeded, in the window only */
};

/* What a scanner tells, in shared memory. */
struct scanner {
	_Atomic uint64_t bytes, errors, worst_ns;
	_Atomic int last_errno;
};

extern struct kt_rng rng;

/* A worker of phases: maps and unmaps random pages of the region, for the mapping that is its arg. */
void map_and_unmap(struct bench_worker *self);
/*
 * Make the processes, before the region exists: they need no copy of its thousands of VMAs. Of each pair the
 * second one is a busy task, where there are some. The number of workers.
 */
unsigned int start_readers(struct bench_worker *workers, struct scanner *scanners, int first_slot);
/* Each page is there or not, at random; or all of them are. */
void make_fragmented_region(void);
void make_whole_region(void);

/* --- seed-table.c --- */
/* Run the test of the patch series and print its table; the exit status. */
int seed_table(void);

#endif
