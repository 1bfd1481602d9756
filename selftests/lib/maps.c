// SPDX-License-Identifier: GPL-2.0-only
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int room(struct maps_text *text, size_t more)
{
	if (text->size - text->length <= more) {
		size_t size = text->size ? text->size : 65536;
		char *data;

		while (size - text->length <= more)
			size *= 2;
		data = realloc(text->data, size);
		if (!data)
			return ENOMEM;
		text->data = data;
		text->size = size;
	}
	if (text->nr_reads == text->max_reads) {
		size_t max = text->max_reads ? 2 * text->max_reads : 64;
		size_t *reads = realloc(text->reads, max * sizeof(*reads));

		if (!reads)
			return ENOMEM;
		text->reads = reads;
		text->max_reads = max;
	}
	return 0;
}

ssize_t maps_piece(int fd, size_t length, struct maps_text *text, bool positioned)
{
	char *at = text->data + text->length;
	ssize_t got;

	do
		got = positioned ? pread(fd, at, length, (off_t)text->length) : read(fd, at, length);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	at[got] = 0;
	text->length += (size_t)got;
	if (got)
		text->reads[text->nr_reads++] = text->length;
	return got;
}

static int read_pieces(int fd, size_t chunk, struct maps_text *text, bool positioned)
{
	text->length = 0;
	text->nr_reads = 0;
	for (;;) {
		int error = room(text, chunk);
		ssize_t got = error ? -error : maps_piece(fd, chunk, text, positioned);

		if (got <= 0)
			return (int)-got;
	}
}

int maps_read(int fd, size_t chunk, struct maps_text *text)
{
	return read_pieces(fd, chunk, text, false);
}

int maps_pread(int fd, size_t chunk, struct maps_text *text)
{
	return read_pieces(fd, chunk, text, true);
}

void maps_free(struct maps_text *text)
{
	free(text->data);
	free(text->reads);
	memset(text, 0, sizeof(*text));
}

static int digit(char c, int base)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (base == 16 && c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* Digits up to a mark, which is passed over; at least as many as the kernel writes. */
static bool number(const char **p, const char *end, int base, int least, char mark, uint64_t *value)
{
	int digits = 0;

	*value = 0;
	while (*p < end && digit(**p, base) >= 0 && digits < 20) {
		*value = *value * (uint64_t)base + (uint64_t)digit(**p, base);
		digits++;
		(*p)++;
	}
	if (digits < least || *p == end || **p != mark)
		return false;
	(*p)++;
	return true;
}

static bool letters(const char *p)
{
	return strchr("r-", p[0]) && strchr("w-", p[1]) && strchr("x-", p[2]) && strchr("sp", p[3]) && p[0] &&
	       p[1] && p[2] && p[3];
}

int maps_parse(const char *text, size_t length, struct maps_line *line, const char **why)
{
	const char *p = text, *end = text + length;
	uint64_t major, minor, inode = 0;
	int digits = 0;

	memset(line, 0, sizeof(*line));
	line->text = text;
	line->length = length;
	if (!number(&p, end, 16, 8, '-', &line->start) || !number(&p, end, 16, 8, ' ', &line->end)) {
		*why = "it does not begin with two addresses";
		return -1;
	}
	if (line->end <= line->start) {
		*why = "its end is not above its start";
		return -1;
	}
	if (end - p < 5 || !letters(p) || p[4] != ' ') {
		*why = "no permissions behind the addresses";
		return -1;
	}
	memcpy(line->perms, p, 4);
	p += 5;
	if (!number(&p, end, 16, 8, ' ', &line->offset) || !number(&p, end, 16, 2, ':', &major) ||
	    !number(&p, end, 16, 2, ' ', &minor)) {
		*why = "no offset and device behind the permissions";
		return -1;
	}
	line->major = (unsigned int)major;
	line->minor = (unsigned int)minor;
	while (p < end && digit(*p, 10) >= 0 && digits++ < 20)
		inode = inode * 10 + (uint64_t)digit(*p++, 10);
	/* what has no name ends with a space, or with its inode */
	if (!digits || (p < end && *p != ' ')) {
		*why = "no inode behind the device";
		return -1;
	}
	line->inode = inode;
	while (p < end && *p == ' ')
		p++;
	line->name = p;
	line->name_length = (size_t)(end - p);
	return 0;
}

bool maps_is_header(const char *text, size_t length)
{
	size_t i = 0;

	while (i < length && digit(text[i], 16) >= 0)
		i++;
	return i >= 8 && i < length && text[i] == '-';
}

int maps_next(const struct maps_text *text, size_t *at, struct maps_line *line, const char **why)
{
	const char *begin = text->data + *at, *newline;

	if (*at >= text->length)
		return 0;
	newline = memchr(begin, '\n', text->length - *at);
	if (!newline) {
		*why = "the file ends inside a line";
		line->text = begin;
		line->length = text->length - *at;
		*at = text->length;
		return -1;
	}
	*at += (size_t)(newline - begin) + 1;
	return maps_parse(begin, (size_t)(newline - begin), line, why) ? -1 : 1;
}

bool maps_named(const struct maps_line *line, const char *name)
{
	return line->name_length == strlen(name) && !memcmp(line->name, name, line->name_length);
}

int64_t maps_pass(int fd, char *buffer, size_t size, long *lines)
{
	int64_t bytes = 0;
	ssize_t got;

	if (lseek(fd, 0, SEEK_SET))
		return -1;
	while ((got = read(fd, buffer, size)) > 0) {
		bytes += got;
		for (ssize_t i = 0; lines && i < got; i++)
			*lines += buffer[i] == '\n';
	}
	return got < 0 ? -1 : bytes;
}

long maps_own_vmas(void)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	char buffer[16384];
	long lines = 0;

	if (fd < 0 || maps_pass(fd, buffer, sizeof(buffer), &lines) < 0)
		kt_inconclusive("/proc/self/maps: %s", strerror(errno));
	close(fd);
	return lines;
}
