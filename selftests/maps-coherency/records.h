/* SPDX-License-Identifier: GPL-2.0-only */
/* Between check.c, which knows the row, and records.c, which knows what each file looks like. */
#ifndef RECORDS_H
#define RECORDS_H

#include "check.h"

/* One pass as far as it has been looked at. */
struct pass {
	struct check *check;
	const struct maps_text *text;
	unsigned int extent;
	size_t read, last_read;		/* which read(): of the place looked at, of the line before */
	uint64_t last_end, last_start;
	unsigned int element;		/* of the row: anchor 0, cell 0, anchor 1, ... */
	unsigned int judged_from;	/* elements before it may have been cut off; UINT_MAX: not known yet */
	unsigned int seen_anchor;	/* the last one, from 1 on */
	size_t anchor_read;		/* the read() it was in */
	bool one_read;			/* so far the cell is in the same one */
	uint32_t covered;		/* pages of the cell that were shown */
	struct piece seen[ROW_PIECES];
	unsigned int nr_seen;
};

/* Judge the lines of text from a place on. */
void maps_records(struct pass *pass, size_t at);
void smaps_records(struct pass *pass, size_t at);
void numa_records(struct pass *pass, size_t at);
void rollup_record(struct pass *pass);

/* What check.c does with them. */
void pass_line(struct pass *pass, const struct maps_line *line);
/* The same where only the start of a mapping is known, by numa_maps. */
void pass_start(struct pass *pass, uint64_t start, const char *policy, const char *at, size_t length);
void complain(struct pass *pass, enum fault fault, const char *at, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

#endif
