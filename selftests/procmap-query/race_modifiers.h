/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Changes for others to race with. Each goes round in a circle of steps, each step is one system call, and
 * so the range is always in one of the states between two steps: what is found must be of one of them.
 */
#ifndef RACE_MODIFIERS_H
#define RACE_MODIFIERS_H

#include "fixture.h"

#define RANGE_PAGES 6

struct range {
	char *at;		/* RANGE_PAGES, with a fence of one page on either side */
	int file[2];
};

struct modifier {
	const char *name;
	void (*prepare)(const struct range *range);	/* an empty range, to what is before the first step */
	int (*step)(const struct range *range, unsigned int number);	/* 0, or an errno */
	unsigned int steps;
	bool holes;	/* where others may map something of their own: not in a process with threads */
	bool names;	/* it needs names for memory */
};

extern const struct modifier modify_split, modify_front, modify_replace;
extern const struct modifier modify_boundary, modify_name, modify_hole;

#endif
