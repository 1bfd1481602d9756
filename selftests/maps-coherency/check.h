/* SPDX-License-Identifier: GPL-2.0-only */
/* What must hold for the text of one pass, whatever happened to the address space meanwhile. */
#ifndef CHECK_H
#define CHECK_H

#include "maps.h"
#include "row.h"

enum view { MAPS, SMAPS, NUMA_MAPS, ROLLUP, QUERY };

/* What the kernel promises of a view: by its version, and by whether it has per-VMA locks. */
struct policy {
	bool lockless;	/* each mapping is looked up on its own: one read() is no snapshot, ranges may repeat */
	bool gaps;	/* a known flaw: what lies behind a mapping that changed its length may be left out */
};
struct policy policy_of(enum view view);

enum fault {
	TORN,		/* what the kernel does not write */
	ORDER,		/* an end that is not above the last one */
	OVERLAP,	/* inside one read() of a kernel that holds mmap_lock meanwhile */
	ANCHOR,		/* a mapping that never changed is missing, repeated or changed */
	MIXED,		/* neither the old nor the new */
	GAP,		/* mapped all the time, and missing */
	BEHIND,		/* the same behind a neighbour that changed its length: see struct policy, gaps */
	RECORD,		/* the parts of one record contradict each other */
	FAULTS
};

struct check {
	const struct row *row;	/* NULL: only what needs none */
	enum view view;
	struct policy policy;
	bool judge_behind;	/* BEHIND is a failure, not just counted */
	bool quiet;		/* count faults, and do not complain */
	uint64_t least_rss;	/* kB that are there all the time, for smaps_rollup */
	uint64_t faults[FAULTS], lines, repeated, holes;
};

enum extent {
	FROM_START = 1,	/* the pass began at the beginning of the file, not in the middle of a line */
	TO_END = 2,	/* it went on until read() gave 0, and the target was there until then */
	SNAPSHOTS = 4,	/* each read() was long enough for all that the kernel had prepared */
};

void check_pass(struct check *check, const struct maps_text *text, unsigned int extent);
/* Whether a text shows exactly this layout of a cell. */
bool check_layout(const struct row *row, const struct cell *cell, const struct maps_text *text);

#endif
