// SPDX-License-Identifier: GPL-2.0-only
#include "hist.h"

#include <inttypes.h>

static unsigned int bucket_of(uint64_t value)
{
	unsigned int octave;

	if (value < HIST_SUB)
		return (unsigned int)value;
	octave = 63 - (unsigned int)__builtin_clzll(value) - HIST_SUB_BITS;
	return (octave + 1) * HIST_SUB + (unsigned int)((value >> octave) - HIST_SUB);
}

/* The largest value that falls into a bucket. */
static uint64_t upper_end(unsigned int bucket)
{
	unsigned int octave = bucket / HIST_SUB, sub = bucket % HIST_SUB;

	if (!octave)
		return sub;
	return ((uint64_t)(HIST_SUB + sub + 1) << (octave - 1)) - 1;
}

void hist_add(struct hist *hist, uint64_t value)
{
	hist->bucket[bucket_of(value)]++;
	hist->count++;
	hist->sum += value;
	if (value > hist->max)
		hist->max = value;
}

void hist_merge(struct hist *into, const struct hist *from)
{
	for (unsigned int i = 0; i < HIST_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
	into->count += from->count;
	into->sum += from->sum;
	if (from->max > into->max)
		into->max = from->max;
}

double hist_mean(const struct hist *hist)
{
	return hist->count ? (double)hist->sum / (double)hist->count : 0;
}

uint64_t hist_quantile(const struct hist *hist, double q)
{
	uint64_t seen = 0, wanted = (uint64_t)(q * (double)hist->count);

	if (!hist->count)
		return 0;
	for (unsigned int i = 0; i < HIST_BUCKETS; i++) {
		seen += hist->bucket[i];
		if (seen > wanted || seen == hist->count)
			return upper_end(i) < hist->max ? upper_end(i) : hist->max;
	}
	return hist->max;
}

void hist_json(const struct hist *hist, FILE *out)
{
	const char *comma = "";

	fputc('[', out);
	for (unsigned int i = 0; i < HIST_BUCKETS; i++) {
		if (hist->bucket[i]) {
			fprintf(out, "%s[%" PRIu64 ", %" PRIu64 "]", comma, upper_end(i), hist->bucket[i]);
			comma = ", ";
		}
	}
	fputc(']', out);
}
