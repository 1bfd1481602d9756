/* SPDX-License-Identifier: GPL-2.0-only */
/* The process whose address space is read: it rests, or changes it as it is told. */
#ifndef TARGET_H
#define TARGET_H

#include "kt.h"

#include <sys/types.h>

enum target_command {
	TARGET_LOCK,	/* take the mmap_lock of its own, and nothing else of interest */
	TARGET_SWEEP,	/* write-lock every VMA of the region, twice */
	TARGET_PACED,	/* change the region each time the reader got on by a step, until told to stop */
	TARGET_STORM,	/* change it with several threads as fast as they can, until then */
};

struct target_shared {
	_Atomic bool stop;
	_Atomic uint64_t progress, step;	/* of the reader, in its own unit */
	_Atomic uint64_t changes;		/* calls that changed the address space */
};

struct target {
	pid_t pid;
	int to, from;
	struct target_shared *shared;
	uintptr_t region;
	size_t vmas;		/* of the region; the process has a few more */
};

/* A process with that many VMAs of one page, some others of every kind, and no more going on in it. */
void target_start(struct target *target, size_t vmas);
void target_tell(struct target *target, enum target_command command);
/* Wait until it has done what it was told. False: it never will, which is a failure. */
bool target_done(struct target *target, const char *while_what);
/* Tell it to stop changing, and wait for that. */
bool target_stop(struct target *target, const char *while_what);
/* Wait until it has changed something more; as target_done(). */
bool target_changes(struct target *target, const char *while_what);
/* A task of another process for the log: its state, and where it waits. */
void target_describe(int pid);
double patience_s(void);	/* after which something never happens */

#endif
