/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is modified: a row of cells in the target's address space, with an anchor, one page that nobody
 * ever touches, before, between and behind them. A cell goes round its layouts, one system call a step.
 */
#ifndef ROW_H
#define ROW_H

#include "kt.h"

#define ROW_CELLS 64
#define ROW_PIECES 8
#define ROW_STEPS 20

enum op {
	PROTECT,	/* mprotect, to the letter in arg */
	MAP,		/* mmap with MAP_FIXED; arg as above */
	UNMAP,
	MOVE,		/* mremap to page arg of the cell */
	KEEP_MOVE,	/* the same with MREMAP_DONTUNMAP */
	RESIZE,		/* mremap in place to end at page arg */
	ADVISE,		/* madvise, the advice in arg */
	NAME,		/* PR_SET_VMA_ANON_NAME, by the letter in arg; 0: none */
	BIND,		/* mbind, to node 0 or to nothing */
	TOUCH,		/* write to the page */
};

/*
 * A layout is written as "02w 24r 46wa": pages 0 and 1 are rw-, 2 and 3 r--, 4 and 5 rw- with name a.
 * Of letters there are w rw-, r r--, x rwx, n ---, and behind them a or b for names, B for a bound policy.
 */
struct step {
	enum op op;
	unsigned int from, to;
	int arg;
	const char *layout;	/* of the whole cell afterwards */
};

enum backing { ANON, PRIVATE_FILE, SHARED_FILE, HUGE, THP, STACK };

struct kind {
	const char *name;
	enum backing backing;
	unsigned int pages;
	/* a page that is replaced by mremap() is unmapped for a moment: no promise that it is always seen */
	bool holes;
	const char *layout;
	struct step steps[ROW_STEPS];
};

struct piece {
	unsigned int from, to;
	char prot, tag;
};

struct layout {
	struct piece piece[ROW_PIECES];
	unsigned int nr;
	uint32_t mapped;	/* a bit for each page */
};

/* A kind made ready: what may be seen of it. */
struct plan {
	const struct kind *kind;
	struct layout at[ROW_STEPS + 1];	/* before each step, and behind the last */
	unsigned int nr;
	uint32_t always;		/* the pages that are mapped in each layout */
	size_t unit;			/* bytes of what the layouts call a page */
};

struct cell {
	const struct plan *plan;
	uintptr_t base, end;
	unsigned int step;
	uint64_t offset;	/* of page 0 in the file */
};

/* The file behind some cells, as maps has to name it. */
struct backing_file {
	int fd;
	uint64_t inode;
	unsigned int major, minor;
	char name[64];
};

struct row {
	uintptr_t start, end, reserved;
	size_t reserved_length;
	unsigned int nr;
	struct cell cell[ROW_CELLS];
	uintptr_t anchor[ROW_CELLS + 1];	/* before each cell, and one behind the last */
	struct plan plan[24];
	unsigned int nr_plans;
	struct backing_file file[2];		/* of PRIVATE_FILE and SHARED_FILE */
};

/* A row of nr cells, of the kinds in turn; its addresses are reserved, nothing is built yet. */
void row_plan(struct row *row, const struct kind *const *kinds, unsigned int nr_kinds, unsigned int nr);
/* Build it, in place of the reservation, in the process that calls. */
void row_build(struct row *row);
/* Do the cell's next step. */
void cell_step(struct row *row, struct cell *cell);
/* The layout it has now. */
const struct layout *cell_layout(const struct cell *cell);

/* "rw-p" and its like, of a piece of a cell. */
void piece_perms(const struct cell *cell, const struct piece *piece, char perms[5]);
/* What maps calls it, without the file's name. */
const char *piece_name(const struct cell *cell, const struct piece *piece);
const struct backing_file *cell_file(const struct row *row, const struct cell *cell);
void print_layout(const struct layout *layout, char *text, size_t size);

#endif
