// SPDX-License-Identifier: GPL-2.0-only
#include "records.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* One record of smaps. */
struct record {
	struct maps_line line;
	uint64_t size, rss, pss, parts;	/* kB */
	unsigned int keys, parts_seen;
	uint64_t key_hash;
	bool has_flags;
};

void maps_records(struct pass *pass, size_t at)
{
	struct maps_line line;
	const char *why = "";
	int got;

	while ((got = maps_next(pass->text, &at, &line, &why)) != 0) {
		if (got > 0)
			pass_line(pass, &line);
		else
			complain(pass, TORN, line.text, "a torn line: %s", why);
	}
}

static bool has_flag(const char *flags, size_t length, const char *flag)
{
	for (size_t i = 0; i + 1 < length; i++)
		if (flags[i] == flag[0] && flags[i + 1] == flag[1] && (i == 0 || flags[i - 1] == ' ') &&
		    (i + 2 == length || flags[i + 2] == ' '))
			return true;
	return false;
}

static void check_flags(struct pass *pass, const struct record *record, const char *flags, size_t length)
{
	static const char *const names[4] = { "rd", "wr", "ex", "ms" };
	static const char letters[4] = "rwxs";

	for (unsigned int i = 0; i < 4; i++)
		if (has_flag(flags, length, names[i]) != (record->line.perms[i] == letters[i]))
			complain(pass, RECORD, record->line.text, "VmFlags contradict the permissions %s",
				 record->line.perms);
}

/* A line "Name:  123 kB", "Name: 1" or "VmFlags: rd wr". */
static void field(struct pass *pass, struct record *record, const char *text, size_t length)
{
	static const char *const parts[] = { "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty" };
	const char *colon = memchr(text, ':', length), *end = text + length, *p = text;
	uint64_t value = 0;
	size_t name;

	while (colon && p < colon && (isalpha((unsigned char)*p) || *p == '_'))
		p++;
	if (!colon || p != colon || colon == text) {
		complain(pass, TORN, text, "neither a header nor a field");
		return;
	}
	name = (size_t)(colon - text);
	for (size_t i = 0; i < name; i++)
		record->key_hash = (record->key_hash ^ (unsigned char)text[i]) * 1099511628211ULL;
	record->keys++;
	if (name == 7 && !memcmp(text, "VmFlags", 7)) {
		record->has_flags = true;
		check_flags(pass, record, colon + 1, (size_t)(end - colon) - 1);
		return;
	}
	for (p = colon + 1; p < end && *p == ' '; p++)
		;
	if (p == end || !isdigit((unsigned char)*p)) {
		complain(pass, TORN, text, "a field without a number");
		return;
	}
	for (; p < end && isdigit((unsigned char)*p); p++)
		value = value * 10 + (uint64_t)(*p - '0');
	if (p != end && (end - p != 3 || memcmp(p, " kB", 3)))
		complain(pass, TORN, text, "something behind a field's number");
	if (name == 4 && !memcmp(text, "Size", 4))
		record->size = value;
	if (name == 3 && !memcmp(text, "Rss", 3))
		record->rss = value;
	if (name == 3 && !memcmp(text, "Pss", 3))
		record->pss = value;
	for (size_t i = 0; i < KT_ARRAY(parts); i++) {
		if (strlen(parts[i]) == name && !memcmp(text, parts[i], name)) {
			record->parts += value;
			record->parts_seen++;
		}
	}
}

static void check_sums(struct pass *pass, const struct record *record)
{
	if (record->parts_seen != 4)
		complain(pass, TORN, record->line.text, "a record without its fields");
	else if (record->rss != record->parts)
		complain(pass, RECORD, record->line.text,
			 "Rss is %" PRIu64 " kB, clean and dirty, shared and private together %" PRIu64,
			 record->rss, record->parts);
	else if (record->pss > record->rss)
		complain(pass, RECORD, record->line.text, "Pss is above Rss");
}

static void close_record(struct pass *pass, const struct record *record, const struct record *first)
{
	if (!record->line.text)
		return;
	if (record->size != (record->line.end - record->line.start) >> 10)
		complain(pass, RECORD, record->line.text, "Size is %" PRIu64 " kB, the addresses say %" PRIu64,
			 record->size, (record->line.end - record->line.start) >> 10);
	if (record->rss > record->size)
		complain(pass, RECORD, record->line.text, "Rss is above Size");
	check_sums(pass, record);
	if (!record->has_flags)
		complain(pass, TORN, record->line.text, "a record without VmFlags");
	else if (first->line.text && (first->keys != record->keys || first->key_hash != record->key_hash))
		complain(pass, TORN, record->line.text, "a record with other fields than the first one");
}

/* The line at *at, without its newline, which is moved behind it; false at the end. */
static bool next_line(struct pass *pass, size_t *at, const char **text, size_t *length)
{
	const char *newline;

	*text = pass->text->data + *at;
	if (*at >= pass->text->length)
		return false;
	newline = memchr(*text, '\n', pass->text->length - *at);
	if (!newline) {
		complain(pass, TORN, *text, "the file ends inside a line");
		return false;
	}
	*length = (size_t)(newline - *text);
	*at += *length + 1;
	return true;
}

void smaps_records(struct pass *pass, size_t at)
{
	struct record record = { .keys = 0 }, first = { .keys = 0 };
	const char *text, *why = "";
	size_t length;

	while (next_line(pass, &at, &text, &length)) {
		if (!maps_is_header(text, length)) {
			/* before the first header it is what remained of a record the pass began in */
			if (record.line.text)
				field(pass, &record, text, length);
			else if (pass->extent & FROM_START)
				complain(pass, TORN, text, "a field before the first header");
			continue;
		}
		close_record(pass, &record, &first);
		if (!first.line.text)
			first = record;
		memset(&record, 0, sizeof(record));
		if (maps_parse(text, length, &record.line, &why))
			complain(pass, TORN, text, "a torn header: %s", why);
		else
			pass_line(pass, &record.line);
	}
	if (pass->extent & TO_END)
		close_record(pass, &record, &first);
}

void rollup_record(struct pass *pass)
{
	struct record record = { .keys = 0 };
	const struct row *row = pass->check->row;
	const char *text, *why = "";
	size_t length, at = 0;

	while (next_line(pass, &at, &text, &length)) {
		if (!maps_is_header(text, length)) {
			if (record.line.text)
				field(pass, &record, text, length);
			else
				complain(pass, TORN, text, "a field before the header");
		} else if (record.line.text) {
			complain(pass, TORN, text, "a second header");
		} else if (maps_parse(text, length, &record.line, &why)) {
			complain(pass, TORN, text, "a torn header: %s", why);
			return;
		}
	}
	if (!record.line.text) {
		if (pass->extent & TO_END)
			complain(pass, TORN, pass->text->data, "nothing at all");
		return;
	}
	pass->check->lines++;
	if (!maps_named(&record.line, "[rollup]") || strcmp(record.line.perms, "---p"))
		complain(pass, TORN, record.line.text, "the header is not that of a rollup");
	check_sums(pass, &record);
	if (row && (record.line.start > row->start || record.line.end < row->end))
		complain(pass, GAP, record.line.text,
			 "it does not reach over all that was mapped all the time");
	if (record.rss < pass->check->least_rss)
		complain(pass, RECORD, record.line.text,
			 "Rss is %" PRIu64 " kB, %" PRIu64 " were there all the time", record.rss,
			 pass->check->least_rss);
}

/* "key=number", "key=text" behind file, or one of a few words. */
static bool numa_word(const char *word, size_t length)
{
	static const char *const words[] = { "heap", "stack", "huge" };
	const char *equals = memchr(word, '=', length);

	for (size_t i = 0; !equals && i < KT_ARRAY(words); i++)
		if (strlen(words[i]) == length && !memcmp(words[i], word, length))
			return true;
	if (!equals || equals == word || equals + 1 == word + length)
		return false;
	if (length > 5 && !memcmp(word, "file=", 5))
		return true;
	for (const char *p = equals + 1; p < word + length; p++)
		if (!isdigit((unsigned char)*p))
			return false;
	return true;
}

/* Anonymous pages are some of those counted by node. */
static void numa_line(struct pass *pass, const char *text, size_t length)
{
	const char *p = text, *end = text + length;
	char policy[32] = "";
	uint64_t start = 0, nodes = 0, anon = 0;

	for (; p < end && isxdigit((unsigned char)*p); p++)
		start = start * 16 + (uint64_t)(isdigit((unsigned char)*p) ? *p - '0' : *p - 'a' + 10);
	if (p - text < 8 || p == end || *p != ' ') {
		complain(pass, TORN, text, "it does not begin with an address");
		return;
	}
	for (unsigned int nr = 0; p < end; nr++) {
		const char *word = ++p;
		size_t size;

		while (p < end && *p != ' ')
			p++;
		size = (size_t)(p - word);
		if (!nr) {
			if (!size || size >= sizeof(policy)) {
				complain(pass, TORN, text, "no policy behind the address");
				return;
			}
			memcpy(policy, word, size);
			continue;
		}
		/* what the kernel adds to the name of a removed file */
		if (size == 9 && !memcmp(word, "(deleted)", 9))
			continue;
		if (!numa_word(word, size)) {
			complain(pass, TORN, text, "an unknown word");
			return;
		}
		if (size > 5 && !memcmp(word, "anon=", 5))
			anon = strtoull(word + 5, NULL, 10);
		if (size > 2 && word[0] == 'N' && isdigit((unsigned char)word[1]))
			nodes += strtoull(memchr(word, '=', size) + 1, NULL, 10);
	}
	if (anon > nodes)
		complain(pass, RECORD, text, "%" PRIu64 " anonymous pages of %" PRIu64, anon, nodes);
	pass_start(pass, start, policy, text, length);
}

void numa_records(struct pass *pass, size_t at)
{
	const char *text;
	size_t length;

	while (next_line(pass, &at, &text, &length))
		numa_line(pass, text, length);
}
