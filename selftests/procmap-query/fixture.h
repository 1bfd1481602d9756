/* SPDX-License-Identifier: GPL-2.0-only */
/* Mappings of every kind whose answers are known beforehand, files for them, and a process that has them. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "procmap.h"

#include <sys/types.h>

/* One mapping, and what was asked for: the truth that does not come from the kernel's text. */
struct piece {
	char *at;
	size_t length;
	int prot, flags;
	int fd;			/* -1: none */
	uint64_t offset;
	uint64_t inode;		/* 0: not known */
	uint32_t major, minor;
	bool file;		/* backed by one, were it only shmem's own */
	char name[300];
};

struct fixture {
	struct piece piece[64];
	unsigned int nr;
	char directory[128];
	char *arena;
	size_t arena_pages;
	bool is_tmpfs;		/* what stat() tells of its files is what maps tells */
};

/* A folder for files that may be mapped executable; removed with fixture_remove(). */
void fixture_directory(struct fixture *fixture);
/* All 16 permissions, each anonymous and of a file, and what is unusual, in random order and distance. */
void fixture_map(struct fixture *fixture, uint64_t seed);
void fixture_remove(struct fixture *fixture);
/* A file of that folder, with these bytes; open for reading and writing. */
int fixture_file(struct fixture *fixture, const char *name, const void *bytes, size_t length);
bool fixture_can_name(void);

/* An ELF file with a build-id, and what may be about it. */
struct elf {
	const char *name;
	size_t id_length;	/* 0: no such note */
	size_t note_at;		/* where its notes begin; 0: right behind the headers */
	unsigned int other_notes;	/* before it, in the same segment */
	unsigned int other_segments;	/* before that one */
	bool is_32_bit, split_notes;	/* the other notes in a segment of their own */
	unsigned char id[PM_ID_MAX];
};
/* Make its id from the random numbers, and the file. Returns the file. */
int elf_file(struct fixture *fixture, struct elf *elf, struct kt_rng *rng);
/* The build-id of an ELF file of 64 bits, found by reading it; its length, 0 if there is none. */
size_t elf_build_id(const char *path, unsigned char id[PM_ID_MAX]);

/* A child that has all that its parent had when it was born, and does what it is told and nothing else. */
struct target {
	pid_t pid;
	int orders, answers;	/* pipes */
};
enum order { ORDER_MPROTECT = 'p', ORDER_EXIT = 'x', ORDER_EXEC = 'e' };

void target_start(struct target *target, const struct fixture *fixture);
void target_order(struct target *target, enum order order);
/* Whether it has done what it was told, within seconds on a fast machine. */
bool target_done(struct target *target, double seconds);
/* End it and wait until it is gone. */
void target_end(struct target *target);

#endif
