/* SPDX-License-Identifier: GPL-2.0-only */
/* The cases, by the file that they are in; what they prove is said in the table of procmap-query.c. */
#ifndef CASES_H
#define CASES_H

/* answers.c: what is found */
void answers_known(const void *arg);
void answers_lines(const void *arg);	/* arg: one's own maps if NULL, another process's otherwise */
void answers_walk(const void *arg);
void answers_filters(const void *arg);
void answers_borders(const void *arg);
void answers_page_size(const void *arg);
void answers_vdso(const void *arg);
void answers_gate(const void *arg);
void answers_empty(const void *arg);

/* names.c */
void names_buffers(const void *arg);
void names_none(const void *arg);
void names_long(const void *arg);

/* build-id.c */
void build_id_own(const void *arg);
void build_id_lengths(const void *arg);
void build_id_places(const void *arg);
void build_id_none(const void *arg);

/* arguments.c */
void arguments_size(const void *arg);
void arguments_flags(const void *arg);
void arguments_buffers(const void *arg);
void arguments_pointers(const void *arg);
void arguments_command(const void *arg);

/* life.c: whose answers, and what remains */
void life_file(const void *arg);
void life_ended(const void *arg);
void life_ending(const void *arg);
void life_locks(const void *arg);
void life_references(const void *arg);
void life_memory(const void *arg);

/* race.c: arg is one of race_modifiers.h */
void race_quiet(const void *arg);	/* arg: with readers of the text if not NULL */
void race_changes(const void *arg);

#endif
