/* SPDX-License-Identifier: GPL-2.0-only */
/* A histogram of durations: 16 buckets an octave, each 3 to 6 % wide. */
#ifndef HIST_H
#define HIST_H

#include <stdint.h>
#include <stdio.h>

#define HIST_SUB_BITS 4
#define HIST_SUB (1U << HIST_SUB_BITS)
#define HIST_BUCKETS ((64 - HIST_SUB_BITS + 1) * HIST_SUB)

struct hist {
	uint64_t count, sum, max;
	uint64_t bucket[HIST_BUCKETS];
};

void hist_add(struct hist *hist, uint64_t value);
void hist_merge(struct hist *into, const struct hist *from);
double hist_mean(const struct hist *hist);			/* 0 if empty */
uint64_t hist_quantile(const struct hist *hist, double q);	/* upper end of the bucket; 0 if empty */
/* [[upper end, count], ...], empty buckets left out. */
void hist_json(const struct hist *hist, FILE *out);

#endif
