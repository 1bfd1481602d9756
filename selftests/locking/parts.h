/* SPDX-License-Identifier: GPL-2.0-only */
/* The cases that are not in locking.c, and what their arguments are. */
#ifndef PARTS_H
#define PARTS_H

#include "reader.h"

struct fault_kind;
extern const struct fault_kind fault_anonymous, fault_zero, fault_file_read, fault_file_cow,
	fault_file_shared, fault_shmem, fault_thp, fault_hugetlb;

/* faults.c */
void faults_of_kind(const void *kind);
void faults_userfaultfd(const void *unused);

/* holders.c */
void holders_killed(const void *unused);
void killed_contended(const void *subject);
void holders_closed(const void *unused);
void holders_held(const void *unused);
void holders_in_copy(const void *unused);
void holders_no_d_state(const void *unused);

#endif
