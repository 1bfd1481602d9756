/* SPDX-License-Identifier: GPL-2.0-only */
/* How often an mmap_lock was acquired, counted by the kernel's own event in a trace instance of our own. */
#ifndef COUNTER_H
#define COUNTER_H

#include "kt.h"

struct counter {
	char path[96];		/* of the instance */
};

/* 0, or the reason why this kernel does not count: static. */
const char *counter_try(struct counter *counter, const char *name);
/* As above, but what is not there ends the case: skipped. */
void counter_open(struct counter *counter, const char *name);
/*
 * The address of the mm whose lock that task takes when it does what take() makes it do. The lock that
 * counts is the one of this address: what the task takes of any other mm is not counted.
 */
uint64_t counter_learn(struct counter *counter, int tid, void (*take)(void *), void *arg);
/* Acquisitions that a filter of the kernel's language lets through. */
void counter_filter(struct counter *counter, const char *format, ...) __attribute__((format(printf, 2, 3)));
void counter_start(struct counter *counter);	/* from 0 */
/* How many since; lost ones end the case, as nothing is known then. */
uint64_t counter_stop(struct counter *counter);
/* Remove every instance of ours, those of an earlier and killed program too. */
void counters_remove(void);

#endif
