/* SPDX-License-Identifier: GPL-2.0-only */
/* PROCMAP_QUERY, the text of maps as what it must answer, and the comparison of both. */
#ifndef PROCMAP_H
#define PROCMAP_H

#include "kt.h"
#include "maps.h"
#include "query.h"

#include <linux/limits.h>
#include <sys/types.h>

enum {
	PM_R = PROCMAP_QUERY_VMA_READABLE, PM_W = PROCMAP_QUERY_VMA_WRITABLE,
	PM_X = PROCMAP_QUERY_VMA_EXECUTABLE, PM_S = PROCMAP_QUERY_VMA_SHARED, PM_PERMS = 0x0f,
	PM_NEXT = PROCMAP_QUERY_COVERING_OR_NEXT_VMA, PM_FILE = PROCMAP_QUERY_FILE_BACKED_VMA, PM_FLAGS = 0x3f,
	PM_FILTER = PM_PERMS | PM_FILE,
};

#define PM_ID_MAX 64

/* What a mapping is, or what a line of maps says about it. */
struct area {
	uint64_t start, end, offset, inode;
	uint32_t major, minor;
	uint32_t flags;		/* PM_R .. PM_S, PM_FILE */
	const char *name;	/* as the query gives it: a newline is one */
	size_t name_length;
	const char *text;	/* its line */
	size_t length;
};

/* The lines of one pass over maps, apart from that of the gate area, which no query knows. */
struct areas {
	struct maps_text text;
	struct area *area;
	size_t nr, max;
	char *names;
	bool has_gate;
	struct area gate;
};

/* One question, and the buffers that come with it; size 0 is none. */
struct pm_ask {
	uint64_t addr, flags;
	void *name, *id;
	uint32_t name_size, id_size;
};

/* 0, or the errno. */
int pm_ask(int fd, const struct pm_ask *ask, struct procmap_query *query);
/* Open /proc/PID/maps (0: one's own), and end the case where the kernel has no PROCMAP_QUERY. */
int pm_open(pid_t pid);
/* Whether a buffer is refused as too small: E2BIG by the header, ENAMETOOLONG by the code since it exists. */
bool pm_too_small(int error);

/* Read maps from its beginning, into the memory of the last time if it is enough. What is no line fails. */
void areas_read(struct areas *areas, int fd);
/* As above, until the memory that this takes is there, and one's own maps no longer change by it. */
void areas_settle(struct areas *areas, int fd);
/* End the case as inconclusive if maps is no longer what was read. */
void areas_unchanged(const struct areas *areas, struct areas *again, int fd);
void areas_free(struct areas *areas);
/* What a query must find, NULL if it must say ENOENT. */
const struct area *areas_find(const struct areas *areas, uint64_t addr, uint64_t flags);
const struct area *areas_named(const struct areas *areas, const char *name);
bool area_passes(const struct area *area, uint64_t flags);

/* In which field an answer is not the area (static), NULL in none. The name counts if it was asked for. */
const char *pm_differs(const struct area *area, const struct pm_ask *ask, const struct procmap_query *query);
/* An answer in words, as a line of maps, in the caller's buffer. */
const char *pm_text(const struct pm_ask *ask, const struct procmap_query *query, int error, char *text,
		    size_t size);
/* Fail, with the answer and the lines around the one that was to be found. */
void pm_wrong(const struct areas *areas, const struct area *area, const struct pm_ask *ask,
	      const struct procmap_query *query, int error, const char *what);

/* Ask, and compare with the text. One for each thread. */
struct pm_checker {
	int fd;
	const struct areas *areas;
	uint64_t asked, found;
	char name[PATH_MAX];
};
void pm_check(struct pm_checker *checker, uint64_t addr, uint64_t flags);

#endif
