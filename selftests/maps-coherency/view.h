/* SPDX-License-Identifier: GPL-2.0-only */
/* One pass over a file of the target, in one of several ways, or over its mappings by PROCMAP_QUERY. */
#ifndef VIEW_H
#define VIEW_H

#include "check.h"

enum how {
	WHOLE,		/* reads of 64 KiB */
	PAGE,		/* reads of a page */
	BYTES,		/* reads of one byte: each line is a mapping looked up anew */
	PIECES,		/* reads of 1 byte to 64 KiB */
	PREAD,		/* the same by pread() */
	SEEK,		/* from somewhere in the middle, by lseek() */
	HEAD,		/* the first lines only, over and over */
};

struct eye {
	enum view view;
	enum how how;
	int pid, tid;	/* tid: read below task/; 0: not */
	int fd;
	struct kt_rng rng;
	struct maps_text text;
	size_t last_length;
};

/* Prepare memory for it; nothing is allocated later, for the reader may be in the target itself. */
void eye_prepare(struct eye *eye, enum view view, enum how how, uint64_t seed);
/* 0, or an errno: the target may be gone. */
int eye_open(struct eye *eye, int pid, int tid);
void eye_close(struct eye *eye);
/* One pass into eye->text; 0, or an errno. What was read until then remains. */
int eye_pass(struct eye *eye, unsigned int *extent);

#endif
