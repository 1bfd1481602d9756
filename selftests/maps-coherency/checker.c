// SPDX-License-Identifier: GPL-2.0-only
/* Texts that no right kernel writes, and some that one may: the checker has to tell them apart. */
#include "race.h"

#include <stdlib.h>
#include <string.h>

#define NO_FAULT FAULTS

static struct row row;
static unsigned int texts;

/* The row as maps, with each cell in its n-th layout. */
static void write_maps(char *text, unsigned int step)
{
	*text = 0;
	for (unsigned int i = 0; i <= row.nr; i++) {
		const struct cell *cell = &row.cell[i];
		const struct layout *layout;

		text += sprintf(text, "%08lx-%08lx r-xp 00000000 00:00 0 \n", (unsigned long)row.anchor[i],
				(unsigned long)(row.anchor[i] + kt_page()));
		if (i == row.nr)
			return;
		layout = &cell->plan->at[step % (cell->plan->nr - 1)];
		for (unsigned int p = 0; p < layout->nr; p++) {
			char perms[5];

			piece_perms(cell, &layout->piece[p], perms);
			text += sprintf(text, "%08lx-%08lx %s 00000000 00:00 0 %s\n",
					(unsigned long)(cell->base + layout->piece[p].from * kt_page()),
					(unsigned long)(cell->base + layout->piece[p].to * kt_page()), perms,
					piece_name(cell, &layout->piece[p]));
		}
	}
}

static char *line_at(char *text, unsigned int number)
{
	while (number--)
		text = strchr(text, '\n') + 1;
	return text;
}

static void drop_line(char *text, unsigned int number)
{
	char *line = line_at(text, number), *next = line_at(line, 1);

	memmove(line, next, strlen(next) + 1);
}

static void double_line(char *text, unsigned int number)
{
	char *line = line_at(text, number), *next = line_at(line, 1);
	size_t length = (size_t)(next - line);

	memmove(next + length, next, strlen(next) + 1);
	memcpy(next, line, length);
}

/* One text is judged; it must show this fault and no other, or none at all. */
static void expect(const char *what, struct check check, char *data, unsigned int extent, enum fault wanted)
{
	size_t end = strlen(data);
	struct maps_text text = { .data = data, .length = end, .reads = &end, .nr_reads = 1 };

	check.quiet = true;
	check_pass(&check, &text, extent);
	texts++;
	if (wanted != NO_FAULT && !check.faults[wanted])
		kt_fail("not noticed: %s", what);
	for (unsigned int fault = 0; fault < FAULTS; fault++)
		if (wanted == NO_FAULT && check.faults[fault])
			kt_fail("fault %u is seen where none is: %s", fault, what);
}

static const unsigned int whole = FROM_START | TO_END | SNAPSHOTS;

static void maps_texts(char *text)
{
	const struct check locked = { .row = &row, .view = MAPS };
	const struct check lockless = { .row = &row, .view = MAPS, .policy = { .lockless = true } };
	const struct check known = { .row = &row, .view = MAPS, .policy = { .lockless = true, .gaps = true } };

	for (unsigned int step = 0; step < 6; step++) {
		write_maps(text, step);
		expect("a right text", locked, text, whole, NO_FAULT);
		expect("a right text, per VMA", known, text, whole, NO_FAULT);
	}
	/* the cells, in layout 1: anchor, 01r 13w, anchor, 05w 58r, anchor */
	write_maps(text, 1);
	drop_line(text, 3);
	expect("a mapping that never changed is missing", lockless, text, whole, ANCHOR);
	write_maps(text, 1);
	drop_line(text, 6);
	expect("the last mapping is missing", lockless, text, whole, ANCHOR);
	expect("a text that is cut off there", lockless, text, FROM_START, NO_FAULT);
	write_maps(text, 1);
	double_line(text, 3);
	expect("a line twice", lockless, text, whole, ORDER);
	write_maps(text, 1);
	drop_line(text, 1);
	expect("the first part of a cell is missing", known, text, whole, GAP);
	write_maps(text, 1);
	drop_line(text, 2);
	expect("the second part of a cell is missing", lockless, text, whole, GAP);
	expect("the second part of a cell is missing, where that is known", known, text, whole, BEHIND);
	write_maps(text, 1);
	drop_line(text, 1);
	drop_line(text, 1);
	expect("a cell is missing", known, text, whole, GAP);
	write_maps(text, 1);
	line_at(text, 1)[20] = 'x';
	expect("permissions that it never had", known, text, whole, MIXED);
	write_maps(text, 1);
	memcpy(line_at(text, 2) + 18, "r--p", 4);
	expect("the range of one state, permissions of the other", known, text, whole, MIXED);
	write_maps(text, 0);
	memcpy(line_at(text, 1) + 9, line_at(text, 2) + 9, 8);
	expect("a mapping over its border", known, text, whole, MIXED);
	write_maps(text, 1);
	memcpy(line_at(text, 4), line_at(text, 1), 17);
	expect("an end that does not rise", lockless, text, whole, ORDER);
	write_maps(text, 1);
	memcpy(line_at(text, 2), line_at(text, 1), 8);
	expect("a part repeated in one read", locked, text, whole, OVERLAP);
	expect("a part repeated, per VMA", lockless, text, whole, NO_FAULT);
	write_maps(text, 1);
	line_at(text, 2)[7] = '\n';
	expect("a torn line", lockless, text, whole, TORN);
	write_maps(text, 1);
	text[strlen(text) - 5] = 0;
	expect("an end inside a line", lockless, text, whole, TORN);
	write_maps(text, 1);
	expect("a text from the middle on", lockless, text + 10, TO_END, NO_FAULT);
	expect("a text from the middle of a cell on", lockless, line_at(text, 1) + 10, TO_END, NO_FAULT);
	drop_line(text, 3);
	expect("a mapping is missing in a text from the middle on", lockless, text + 10, TO_END, ANCHOR);
	/* 04w and 58r are of different layouts */
	write_maps(text, 1);
	sprintf(line_at(text, 4) + 9, "%08lx", (unsigned long)(row.cell[1].base + 4 * kt_page()));
	line_at(text, 4)[17] = ' ';
	expect("parts of two states in one read", locked, text, whole, OVERLAP);
}

/* The first line of maps as a record of smaps, with one word in it replaced. */
static void write_smaps(char *text, const char *word, const char *by)
{
	static const char *const record =
		"%08lx-%08lx r-xp 00000000 00:00 0 \nSize: %lu kB\nRss: 4 kB\nPss: 4 kB\nShared_Clean: 0 kB\n"
		"Shared_Dirty: 0 kB\nPrivate_Clean: 0 kB\nPrivate_Dirty: 4 kB\nTHPeligible: 0\n"
		"VmFlags: rd ex mr mw me \n";
	char *at;

	for (unsigned int i = 0; i < 2; i++) {
		unsigned long start = row.end + (i + 1) * 16 * kt_page();

		text += sprintf(text, record, start, start + kt_page(), (unsigned long)kt_page() >> 10);
	}
	if (!word)
		return;
	/* in the second record, which is compared with the first one, too */
	at = text - 40;
	while (strncmp(at, word, strlen(word)))
		at--;
	memmove(at + strlen(by), at + strlen(word), strlen(at + strlen(word)) + 1);
	memcpy(at, by, strlen(by));
}

static void smaps_texts(char *text)
{
	const struct check check = { .view = SMAPS, .policy = { .lockless = true } };

	write_smaps(text, NULL, NULL);
	expect("right records", check, text, whole, NO_FAULT);
	write_smaps(text, "Size: ", "Size: 1");
	expect("a size that is not that of the range", check, text, whole, RECORD);
	write_smaps(text, "Private_Dirty: 4", "Private_Dirty: 0");
	expect("pages of no kind", check, text, whole, RECORD);
	write_smaps(text, "r-xp", "rwxp");
	expect("permissions that the flags contradict", check, text, whole, RECORD);
	write_smaps(text, "Pss: 4 kB\n", "");
	expect("a record without a field", check, text, whole, TORN);
	write_smaps(text, "Rss: 4 kB", "Rss: 4");
	expect("a field in other words", check, text, whole, NO_FAULT);
	write_smaps(text, "Rss: 4 kB", "Rss: 4 k");
	expect("a torn field", check, text, whole, TORN);
	write_smaps(text, "Shared_Clean: 0 kB\n", "Shared_\n");
	expect("a field that is cut off", check, text, whole, TORN);
}

static void numa_texts(char *text)
{
	const struct check check = { .row = &row, .view = NUMA_MAPS, .policy = { .lockless = true } };
	char *right = text + 4096;

	*right = 0;
	for (unsigned int i = 0; i <= row.nr; i++) {
		sprintf(right + strlen(right), "%08lx default\n", (unsigned long)row.anchor[i]);
		if (i < row.nr)
			sprintf(right + strlen(right),
				"%08lx default anon=3 dirty=3 N0=3 kernelpagesize_kB=4\n",
				(unsigned long)row.cell[i].base);
	}
	strcpy(text, right);
	expect("a right numa_maps", check, text, whole, NO_FAULT);
	drop_line(text, 1);
	expect("the beginning of a cell is missing", check, text, whole, GAP);
	strcpy(text, right);
	drop_line(text, 2);
	expect("a mapping that never changed is missing in numa_maps", check, text, whole, ANCHOR);
	strcpy(text, right);
	memcpy(line_at(text, 1) + 9, "bind:00", 7);
	expect("a policy that it never had", check, text, whole, MIXED);
	strcpy(text, right);
	memcpy(strstr(text, "N0=3"), "N0=1", 4);
	expect("more anonymous pages than pages", check, text, whole, RECORD);
	strcpy(text, right);
	memcpy(strstr(text, "dirty="), "di ty=", 6);
	expect("a torn word", check, text, whole, TORN);
}

static void rollup_texts(char *text)
{
	const struct check check = { .row = &row, .view = ROLLUP, .least_rss = 4 };
	static const char *const record = "%08lx-%08lx ---p 00000000 00:00 0 [rollup]\nRss: %d kB\nPss: 0 kB\n"
		"Shared_Clean: 0 kB\nShared_Dirty: 0 kB\nPrivate_Clean: 0 kB\nPrivate_Dirty: %d kB\n";

	sprintf(text, record, (unsigned long)row.start, (unsigned long)row.end, 8, 8);
	expect("a right rollup", check, text, whole, NO_FAULT);
	sprintf(text, record, (unsigned long)row.start, (unsigned long)row.end, 0, 0);
	expect("a rollup that left pages out", check, text, whole, RECORD);
	sprintf(text, record, (unsigned long)row.start, (unsigned long)row.anchor[row.nr], 8, 8);
	expect("a rollup that ends early", check, text, whole, GAP);
	*text = 0;
	expect("an empty rollup", check, text, whole, TORN);
}

void checker_case(const void *arg)
{
	static const struct kind *const kinds[] = { &split_lower, &boundary };
	static char text[16384];

	(void)arg;
	row_plan(&row, kinds, KT_ARRAY(kinds), KT_ARRAY(kinds));
	if (row.end > UINT32_MAX)
		kt_skip("the row lies too high for texts of this form");
	maps_texts(text);
	smaps_texts(text);
	numa_texts(text);
	rollup_texts(text);
	kt_work("texts", texts, 50);
}
