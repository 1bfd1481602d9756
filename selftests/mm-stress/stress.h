/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Arenas are memory whose contents are known: each page that is followed holds its tag, in its first and in
 * its last word. Kinds change arenas, faulters touch them, readers read /proc meanwhile.
 *
 * No thread of a running case may call mmap() without MAP_FIXED, nor anything that might (malloc): it could
 * be given a hole that a kind has just made, and be overwritten.
 */
#ifndef STRESS_H
#define STRESS_H

#include "kt.h"

/* Signals that are legal, at a page that keeps its data or at another one. */
enum {
	KEPT_SEGV_WRITE = 1,
	KEPT_SEGV = 2,
	OTHER_SEGV = 4,
	OTHER_BUS = 8,
};

#define MAX_ARENAS 24
#define MAX_PLACES 2

struct arena {
	const char *name;
	char *place[MAX_PLACES];	/* where it may be found */
	unsigned int nr_places;
	_Atomic unsigned int now;	/* in which of them it is */
	size_t length, stride;		/* stride: from one page that is followed to the next */
	unsigned int nr;		/* pages that are followed */
	unsigned int block;		/* every second block of so many pages is kept; nr: all are; 0: none is */
	bool may_be_empty;		/* pages that are not kept */
	bool two_tags;			/* they hold one of two tags */
	unsigned int legal;		/* signals */
	unsigned int id;		/* arenas of the same id show the same data */
	int fd;
};

enum { FILE_MAPS, FILE_SMAPS, FILE_NUMA_MAPS, FILE_SMAPS_ROLLUP, FILE_QUERY, NR_FILES };
enum { INSIDE, OUTSIDE, NR_SIDES };

/* Shared with the reader outside. */
struct shared {
	_Atomic bool stop, stop_server;
	_Atomic bool absent[NR_FILES];
	_Atomic uint64_t passes[NR_SIDES][NR_FILES];
	_Atomic uint64_t faults, traps, touches;
};
extern struct shared *shared;

/* --- arena.c --- */
extern struct arena arenas[MAX_ARENAS];
extern unsigned int nr_arenas;

/* Address space of nr_places * length, aligned, PROT_NONE before and behind each place. */
struct arena *arena_reserve(const char *name, size_t length, size_t align, unsigned int nr_places);
/* Anonymous memory, or of a file if fd is not negative, at the first place; flags as for mmap(). */
void arena_map(struct arena *arena, int prot, int flags, int fd);
void arena_fill(struct arena *arena);
char *arena_page(const struct arena *arena, unsigned int place, unsigned int page);
bool arena_kept(const struct arena *arena, unsigned int page);
uint64_t arena_tag(const struct arena *arena, unsigned int page, unsigned int which);
/* A range of pages; of those that are not kept only, if asked for. */
void arena_range(const struct arena *arena, struct kt_rng *rng, bool not_kept, unsigned int *page,
		 unsigned int *count);
/* What is wrong with a value at a page, or NULL. */
const char *arena_wrong(const struct arena *arena, unsigned int page, uint64_t value);
/* All pages where they are now; only when nobody changes them any more. */
void arena_verify(const struct arena *arena);
int arena_memfd(size_t length);
void catch_traps(void);
void *faulter(void *seed);

/* --- kinds.c, uffd.c --- */
struct kind {
	const char *name;
	const char *(*make)(struct kind *kind);		/* its arenas; why it cannot, if it cannot */
	bool (*change)(struct kind *kind, struct kt_rng *rng);	/* once; whether it did */
	void (*finish)(struct kind *kind);		/* undo what would hide pages; may be NULL */
	void *(*server)(void *kind);			/* a thread that outlives the faulters; may be NULL */
	const char *special;				/* what among its changes must have happened */
	_Atomic uint64_t nr_special, changes, refused;
	struct arena *arena[3];
};
extern struct kind kinds[];
extern const unsigned int nr_kinds;

const char *uffd_make(struct kind *kind);
bool uffd_change(struct kind *kind, struct kt_rng *rng);
void *uffd_server(void *kind);

/* --- readers.c --- */
extern const char *const file_names[NR_FILES];
void readers_make(void);
/* Read all files in turn until shared->stop, of this process or of another. */
void read_files(const char *proc, int side);

#endif
