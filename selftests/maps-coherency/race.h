/* SPDX-License-Identifier: GPL-2.0-only */
/* Readers against modifiers. */
#ifndef RACE_H
#define RACE_H

#include "view.h"

#define RACE_KINDS 24

struct race {
	enum view view;
	enum how how;
	const struct kind *kinds[RACE_KINDS];	/* of the cells, in turn */
	unsigned int cells;			/* 0: 2, or one of each kind */
	unsigned int modifiers, readers;	/* 0: 1 */
	bool self;				/* the target is the reader's own process */
	bool task;				/* read below task/TID */
	bool judge_behind;
	bool one_step;				/* one modification a pass; one cell, modifier and reader */
};

void race(const void *setup);

extern const struct kind split_upper, split_lower, split_middle, shrink_front, grow, move, keep_move, boundary,
	merge_left, merge_right, merge_both, merge_hole, merge_over, advise, name_piece, private_file,
	shared_file, huge, thp, stack, fixed_over, replace, bind_piece;

/* A thread of high priority that interrupts the caller's CPU in the middle of whatever it does. */
void start_interrupter(int cpu);
uint64_t interruptions(void);

/* Whether the case goes on: for its time, and then for a few seconds more until the work is enough. */
bool go_on(bool enough);

enum { LEAST_PASSES = 5, LEAST_OVERLAPPED = 3, LEAST_MODIFICATIONS = 20 };

/* The target as a whole: it forks, executes, ends. */
void fork_case(const void *arg);
void exec_case(const void *arg);
void exit_case(const void *arg);
void threads_case(const void *arg);
/* What an executed target does. */
int exec_target(int fd);

/* Whether the checker sees what it is there for. */
void checker_case(const void *arg);

#endif
